"""The evaluation of models: metrics, their uncertainty, and the report."""
