"""The time budget: its clock, the pace inside it, the speed of a machine, and what that affords."""
