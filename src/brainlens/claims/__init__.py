"""The ground-truth claims and the demo: what `make claims` and `make demo` run."""
