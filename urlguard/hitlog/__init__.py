"""The hit log: blocked, review and shadow hits, with a daily pseudonym of the client."""
