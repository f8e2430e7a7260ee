"""How a cluster gets onto its servers: where things lie there, and the systemd units."""
