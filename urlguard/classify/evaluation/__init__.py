"""How good a model is: measures, their uncertainty, and the report."""
