"""Run the few-shot evaluation as `python -m serve.jobs.few_shot`. Knows nothing but the command."""

from serve.jobs.few_shot.command import few_shot

if __name__ == "__main__":
    few_shot()
