"""
The lists that ship with UrlGuard; `urlguard.wellknown` reads them.

The folder's README says where each comes from; `build` makes them.
"""
