"""All pairs below a bound."""
