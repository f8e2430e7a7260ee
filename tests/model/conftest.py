"""One torch thread, as a worker runs."""

import torch

torch.set_num_threads(1)
