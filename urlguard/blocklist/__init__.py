"""The rules in force, compiled for matching; knows no packets and no policy log."""
