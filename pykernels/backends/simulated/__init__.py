"""A device of known truth: roofs, noise and cheats from a file in place of a clock, so that every statement the
statistics make can be held against what is true.

`noise`: the file. `process`: the noise as arrays. `device`: how long a call truly takes. `player`: answers the engine.
"""

from pykernels.backends.simulated.noise import Noise, load_noise

__all__ = ["Noise", "load_noise"]
