"""Vector palettes on a torch device; the interface is that of `palettery.kernels.vector.cpu`."""

import numpy as np
import torch
from numpy.typing import NDArray

from palettery.kernels.threads import CancellationCheck
from palettery.kernels.vector.cpu import VectorClusters
from palettery.kernels.vector.torch_kernels import cluster


def cluster_on(
    device: torch.device,
    points: NDArray[np.floating],
    k: int,
    sensitivity: NDArray[np.floating] | None,
    seed: int,
    check_cancelled: CancellationCheck,
) -> VectorClusters:
    """Cluster every group by squared error, each point weighted by its `sensitivity`.

    Shapes: points (G, N, d) finite, sensitivity (G, N) not negative; k at most 256.
    """
    mass = None if sensitivity is None else torch.tensor(sensitivity, device=device)
    clusters = cluster(torch.tensor(points, device=device), k, mass, seed, check_cancelled)
    return VectorClusters(
        clusters.centroids.cpu().numpy(),
        clusters.labels.cpu().numpy(),
        np.zeros(len(points), np.int32),
    )
