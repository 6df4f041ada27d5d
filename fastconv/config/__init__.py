"""The configuration: its schema, and how a command line is composed into it, validated and swept."""
