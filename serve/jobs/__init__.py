"""Work behind the command line: benchmarks, evaluations and model preparation."""
