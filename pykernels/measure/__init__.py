"""Clock, sampling, statistics, verification: what makes a measurement one."""
