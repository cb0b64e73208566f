"""Functions on arrays: ridge, kernel ridge, canonical metric, evidence."""
