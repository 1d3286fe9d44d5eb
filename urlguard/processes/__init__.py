"""Used by all our processes: messages, children, lifetime, sandbox.  Imports events and errors."""
