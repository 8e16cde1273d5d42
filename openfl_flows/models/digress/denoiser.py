"""The DiGress denoiser: predicts the clean graph of a noisy one, trains, scores and samples.

Shape legend: B graphs, N padded nodes, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openfl_flows.models.digress.bounds import Bounds, Prediction, estimate_bounds
from openfl_flows.models.digress.config import DigressConfig
from openfl_flows.models.digress.features import (
    NUM_GRAPH_FEATURES,
    NUM_NODE_FEATURES,
    ExtraFeatures,
)
from openfl_flows.models.digress.graphs import (
    NUM_BOND_CLASSES,
    Graphs,
    one_hot_atoms,
    one_hot_bonds,
    pair_mask,
)
from openfl_flows.models.digress.guidance import Guidance, Selection
from openfl_flows.models.digress.network import GraphTransformer, Widths
from openfl_flows.models.digress.process import NoiseProcess, Noisy, evaluating
from openfl_flows.models.digress.sampling import Sampled, sample_graphs
from openfl_flows.models.digress.schedule import Descent
from openfl_flows.models.digress.statistics import GraphStatistics


class Denoiser(nn.Module):
    """p(x | z_t): independent class probabilities of all atoms and bonds given a noisy graph.

    Its state dict is `model.<name>` with the published names; noise and tables are not in it.
    """

    def __init__(self, config: DigressConfig, statistics: GraphStatistics) -> None:
        """Build the network with random weights.

        Raises:
            ValueError: where the statistics do not fit the configuration.
        """
        super().__init__()
        self.config = config
        num_atoms = len(config.vocabulary)
        inputs = Widths(x=num_atoms, e=NUM_BOND_CLASSES, y=1)
        if config.extra_features:
            inputs = Widths(num_atoms + NUM_NODE_FEATURES, inputs.e, 1 + NUM_GRAPH_FEATURES)
        self.process = NoiseProcess(config, statistics)
        self.features = ExtraFeatures(config) if config.extra_features else None
        self.model = GraphTransformer(config, inputs, Widths(num_atoms, NUM_BOND_CLASSES, 0))

    def corrupt(self, graphs: Graphs, generator: torch.Generator, *, lowest_t: int = 0) -> Noisy:
        """Draw a level of lowest_t..T for each graph and noise it to that level."""
        t = self.process.levels(len(graphs.atoms), generator, lowest_t=lowest_t)
        return self.process.corrupt(graphs, t, generator)

    def forward(self, noisy: Noisy, *, diagonal: bool = True) -> tuple[Tensor, Tensor]:
        """Logits of the clean atoms (B, N, K) and bonds (B, N, N, 5), float32.

        Args:
            noisy: noisy graphs and their levels.
            diagonal: under published numerics, feed class 0 on the diagonal of the bonds (the
                published code does, except for the fully random graph that sampling starts from).
        """
        graphs = noisy.graphs
        x = one_hot_atoms(graphs, len(self.config.vocabulary))
        e = one_hot_bonds(graphs, diagonal=diagonal and not self.config.corrected)
        y = noisy.t[:, None].float() / self.config.diffusion_steps
        if self.features is not None:
            nodes, graph = self.features(graphs)
            x, y = torch.cat((x, nodes), -1), torch.cat((graph, y), -1)
        logits_x, logits_e, _ = self.model(x, e, y, graphs.mask)
        return logits_x.float(), logits_e.float()

    def predict(self, noisy: Noisy, *, diagonal: bool = True) -> Prediction:
        """Log-probabilities of the clean classes; arguments as `forward`."""
        atoms, bonds = self(noisy, diagonal=diagonal)
        return Prediction(atoms.log_softmax(-1), bonds.log_softmax(-1))

    def loss(
        self, noisy: Noisy, clean: Graphs, *, num_nodes: Tensor | int | None = None,
        num_pairs: Tensor | int | None = None,
    ) -> Tensor:  # fmt: skip
        """Cross-entropy: sum over atoms / num_nodes + weight * sum over ordered pairs / num_pairs.

        Args:
            noisy: noised graphs.
            clean: the graphs before noising.
            num_nodes: real nodes of the whole batch, where `clean` is a micro-batch of it; the
                losses of all micro-batches then add up to that of the batch.
            num_pairs: ordered pairs of distinct real nodes of the whole batch, the same way.

        Returns:
            Scalar loss.
        """
        logits_x, logits_e = self(noisy)
        num_nodes = clean.num_nodes.sum() if num_nodes is None else num_nodes
        num_pairs = clean.num_pairs.sum() if num_pairs is None else num_pairs
        pairs_BNN = torch.where(pair_mask(clean.mask), clean.bonds.long(), -1)
        sum_x = _cross_entropy(logits_x, clean.atoms.long())
        sum_e = _cross_entropy(logits_e, pairs_BNN)
        # A batch of single atoms has no pairs, and no bond loss.
        mean_e = sum_e / torch.as_tensor(num_pairs).clamp_min(1)
        return sum_x / num_nodes + self.config.edge_loss_weight * mean_e

    def bounds(
        self, graphs: Graphs, generator: torch.Generator, *, t: Tensor | None = None
    ) -> Bounds:
        """Both likelihood estimates per graph from one draw of noise, without dropout.

        Args:
            graphs: clean graphs.
            generator: source of noise.
            t: levels of 1..T, (B,), uniform unless given (see `stratified_timesteps`).
        """
        with evaluating(self):
            if t is None:
                t = self.process.levels(len(graphs.atoms), generator, lowest_t=1)
            noisy = self.process.corrupt(graphs, t, generator)
            start = self.process.corrupt(graphs, torch.zeros_like(noisy.t), generator)
            return estimate_bounds(
                self.process, graphs, noisy, self.predict(noisy), self.predict(start)
            )

    def nll(self, graphs: Graphs, generator: torch.Generator, *, t: Tensor | None = None) -> Tensor:
        """The published likelihood estimate in nats per graph, (B,); see `Bounds.nll`."""
        return self.bounds(graphs, generator, t=t).nll

    def elbo(
        self, graphs: Graphs, generator: torch.Generator, *, t: Tensor | None = None
    ) -> Tensor:
        """Negative evidence lower bound of the sampler in nats per graph, (B,)."""
        return self.bounds(graphs, generator, t=t).elbo

    def sample(
        self, num: int, generator: torch.Generator, *, num_nodes: Tensor | None = None,
        steps: int | None = None, keep_chain: int = 0, chain_frames: int = 0,
        guidance: Guidance | Selection | None = None, batch_size: int = 512,
        descent: Descent | None = None,
    ) -> Sampled:  # fmt: skip
        """Draw graphs by denoising random ones from level T to 0.

        Corrected numerics end by drawing the graph from p(x | z_0), so that `elbo` bounds exactly
        this sampler's likelihood; published numerics return z_0 itself.

        Args:
            num: graphs to draw.
            generator: source of all randomness.
            num_nodes: size of each graph, (num,), drawn from the size histogram unless given.
            steps: denoising steps, T unless given; fewer stride over levels (faster, less exact).
            keep_chain: graphs of which the way there is kept, the first ones.
            chain_frames: moments of the way to keep, at most `steps`.
            guidance: pulls samples towards target properties.
            batch_size: graphs denoised at once.
            descent: which levels are visited and how; even strides unless given.

        Raises:
            ValueError: for counts, sizes or steps out of range.
        """
        with evaluating(self):
            return sample_graphs(
                self.process, self.predict, num, generator, num_nodes=num_nodes,
                steps=self.config.diffusion_steps if steps is None else steps,
                keep_chain=keep_chain, chain_frames=chain_frames, guidance=guidance,
                batch_size=batch_size, descent=descent or Descent(),
            )  # fmt: skip


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Summed cross-entropy over entries whose class is not -1."""
    flat = logits.reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, classes.reshape(-1), ignore_index=-1, reduction="sum")
