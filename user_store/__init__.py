"""What is remembered: people, events, completions and the latent index.

The event log is the truth; everything else can be rebuilt from it. Knows router's types; knows neither HTTP nor Ray.
"""
