"""The configuration: its schema, how command lines are composed to it, validated, and swept over."""
