"""WHERE: what the machine says of itself; read only."""
