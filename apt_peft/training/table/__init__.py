"""Every flag of `apt-peft train`: its default, its rule and its help, in a table for each theme."""
