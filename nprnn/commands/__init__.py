"""The subcommands of ``nprnn``: one module each, and what they share."""
