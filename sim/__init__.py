"""The twin: the scheduling core of `mpls` in virtual time."""
