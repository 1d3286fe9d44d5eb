"""Scenarios in simulated time: see the README of tests/scenarios for what one may say."""
