"""UrlGuard: a DNS resolver and policy engine that keeps people away from fraud sites."""

__version__ = "0.1.0"
