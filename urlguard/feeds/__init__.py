"""
feeds: lists from outside, fetched, read and turned into claims of the policy log.

`downloader` brings the bytes, `formats` turns them into rule keys.  Neither knows what the rules
are used for.
"""
