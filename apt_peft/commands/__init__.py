"""The commands of `apt-peft`, a file each with `add_arguments(parser)` and `run(args)`."""
