"""Few-shot evaluation on real people's judgements: how well a person is known after k of their own labels.

Palate and its peers side by side in one run, on people nobody has trained on, on texts seen and unseen.
Knows nothing about the server; `command.few_shot` is the command.
"""
