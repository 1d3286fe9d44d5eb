"""The lexical classifier: how a name or URL looks, and what that says of it."""
