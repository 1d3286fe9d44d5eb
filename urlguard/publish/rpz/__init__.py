"""The policy as a response policy zone for other resolvers."""
