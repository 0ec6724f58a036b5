"""Calibration of a trained network for shear: a committee of perceptrons, trained on the mean squared bias.

This is the second step of FORKLENS (Zhang et al. 2024, A&A 683, A209; github.com/zhangzzk/forklens,
``examples/cali_code``), which trains it with Tenbilac (Tewes et al. 2019, A&A 621, A36;
github.com/mtewes/tenbilac).

As in the published code:

- A case is one galaxy (size, flux, modulus of the intrinsic shape), one PSF and one shear. Its realisations
  differ in noise and in the orientation of the galaxy, which is turned evenly over half a circle, so that the
  intrinsic shapes cancel.
- The truth is the shear of the case, not the shape of the stamp.
- The loss is the mean squared bias (MSB): the square of the mean over realisations of the corrected answer
  minus the true shear, averaged over cases.
- The inputs are what the network says about the stamp. Nothing is measured by other means.
- The shear components have networks of their own. Eight of each, which differ in their initial weights, are
  trained by BFGS from networks that return their first input, and the answer is the mean of the eight.

What differs:

- FORKLENS's network answers shape, size and magnitude. Here the inputs are the shape, the signal-to-noise
  ratio that the network observes, the noise relative to the median flux of the population, and flux, position
  and size of a network that is trained for them (``auxiliary: true``).
- There are fewer cases and realisations (5000 of 2000 there). To make up for it, each noise field is used
  with both signs, which cancels its effect of first order, and under four shears. What is left of the noise
  in the mean over realisations is a part of the loss, as in the published one, and favours answers that are
  too small. (To subtract its variance, estimated from the realisations, would remove this; but a training
  then finds answers with so much scatter that the difference is negative by chance.)
- Cases have the noise levels of a range. FORKLENS has one level and galaxies of several magnitudes.
- Inputs are limited to the range that they have in the training: beyond it, the correction of its end holds.

What the published code does not say: the configuration of Tenbilac, and so the size of the networks. Its own
module ``CaliNN``, which it does not use in its example, has three hidden layers of 5 units, which is the
default here, with the activation of Tenbilac, tanh.

FORKLENS's third step, weights of galaxies by another network, is left out: the tables of this package weigh
all galaxies alike.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from shearbench.data.observing import filled
from shearbench.errors import ContractError, ShearbenchError
from shearbench.jobs.torch_settings import pick_device, seeded, torch_settings
from shearbench.simulation.cases import ROTATIONS, SHEARS, Cases, sample_cases
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.model_file import TrainedNetwork, load_model
from shearbench.tasks.shear.network import Answer, ShearNetwork
from shearbench.training.checkpoint import Checkpoint

RULE = "calibrate"
SHARE = 0.25
"""Fraction of the galaxies that choose the best iteration of a training, the validation."""
_STAMPS = 1024  # measured at once
_SAVE = 30.0  # seconds after which the state is saved
_LEVELS = 8  # noise levels at which the errors are calibrated


def msb(estimates: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared bias of cases.

    Parameters
    ----------
    estimates : Tensor, shape (n, realisations)
        Estimates of each case, each with another noise or orientation.
    truth : Tensor, shape (n,)

    Returns
    -------
    Tensor, shape ()
        The mean over cases of (mean estimate - truth)^2.
    """
    return (estimates.mean(1) - truth).square().mean()


def features(network: ShearNetwork, answer: Answer, sigma: Tensor) -> Tensor:
    """Return the inputs of a committee, shape (n, 4 + further targets): all from what is known of a stamp.

    They are named by `feature_names`.

    Parameters
    ----------
    network : ShearNetwork
    answer : Answer
        Its answer for n stamps.
    sigma : Tensor, shape (n,)
        Noise per pixel.
    """
    at = network.targets.index("g1")
    further = torch.cat([answer.standard[:, :at], answer.standard[:, at + 2 :]], 1)
    known = torch.stack([answer.snr, sigma / network.median_flux], 1).log10()
    return torch.cat([answer.shapes, known, further], 1)


def feature_names(network: ShearNetwork) -> tuple[str, ...]:
    """Return the names of `features`."""
    further = (name for name in network.targets if name not in ("g1", "g2"))
    return ("g1", "g2", "log_snr", "log_noise", *further)


class Committee(nn.Module):
    """Perceptrons that each correct one component of the shape, several for each component.

    Parameters
    ----------
    inputs : int
        Number of `features`.
    hidden : sequence of int
        Units of the hidden layers.
    members : int
    seed : int
        Seed of the initial weights.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], members: int, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(inputs, dtype=torch.float64))
        self.register_buffer("lowest", torch.full((inputs,), -torch.inf, dtype=torch.float64))
        self.register_buffer("highest", torch.full((inputs,), torch.inf, dtype=torch.float64))
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.perceptrons = nn.ModuleList(_perceptron(inputs, hidden) for _ in range(2 * members))

    centre: Tensor
    spread: Tensor
    lowest: Tensor
    highest: Tensor

    @torch.no_grad()
    def fit_scaling(self, values: Tensor) -> None:
        """Measure the ranges and the scaling of the inputs [n, inputs]."""
        values = values.double()
        self.lowest, self.highest = values.amin(0), values.amax(0)
        self.centre, self.spread = values.mean(0), values.std(0)
        # An input that does not vary says nothing.
        self.spread[self.spread < 1e-9 * (1 + self.centre.abs())] = 1.0

    def scaled(self, values: Tensor) -> Tensor:
        """Return the inputs [..., inputs] within their ranges, in units of their spread."""
        return (values.double().clamp(self.lowest, self.highest) - self.centre) / self.spread

    def corrected(self, number: int, values: Tensor, scaled: Tensor) -> Tensor:
        """Return the component `number % 2` of the shape, corrected by a perceptron, shape (...)."""
        component = number % 2
        shift = self.perceptrons[number](scaled)[..., 0]
        return values[..., component].double() + self.spread[component] * shift

    def forward(self, values: Tensor) -> Tensor:
        """Return the corrected shapes by each member, shape (members, n, 2), of `features` [n, inputs]."""
        scaled = self.scaled(values)
        each = [self.corrected(number, values, scaled) for number in range(len(self.perceptrons))]
        return torch.stack(each).unflatten(0, (-1, 2)).movedim(1, -1)


def _perceptron(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return a network of one output, which is zero before the training."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(inputs, units, dtype=torch.float64), nn.Tanh()]
        inputs = units
    last = nn.Linear(inputs, 1, dtype=torch.float64)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


@dataclass(frozen=True)
class Answers:
    """The answers of a network for cases.

    The dimensions of the arrays are galaxies, shears, realisations, orientations and signs of the noise
    together, and components.

    Attributes
    ----------
    values : Tensor, shape (G, S, K, R, inputs)
        See `features`.
    error : Tensor, shape (G, S, K, R, 2)
        Errors before their calibration, see `Answer.error`.
    shapes : Tensor, shape (G, S, R, 2)
        The true shapes of the stamps.
    shear : Tensor, shape (G, S, 2)
        The truth of each case.
    sigma : Tensor, shape (G,)
        Noise per pixel.
    """

    values: Tensor
    error: Tensor
    shapes: Tensor
    shear: Tensor
    sigma: Tensor

    def of(self, chosen: Tensor | slice) -> Answers:
        """Return the answers for some galaxies."""
        return Answers(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @property
    def finite(self) -> Answers:
        """The answers for those galaxies of which no stamp has pixels that are masked beyond repair."""
        good = (self.values.sum(-1) + self.error.sum(-1)).isfinite().flatten(1).all(1)
        return self if good.all() else self.of(good)


@torch.no_grad()
def answers_for(
    network: ShearNetwork,
    cases: Cases,
    galaxies: slice,
    population: Population,
    shape: tuple[int, int],
    pixel_scale: float,
    seed: int,
) -> Answers:
    """Draw the stamps of some galaxies, and measure them under all shears and with all noise fields.

    A noiseless stamp is drawn once for all its noise fields.

    Parameters
    ----------
    network : ShearNetwork
    cases : Cases
    galaxies : slice
        First galaxy, and one after the last.
    population : Population
    shape : (int, int)
        Rows and columns of a stamp.
    pixel_scale : float
        Arcsec.
    seed : int
        The run's seed, which determines the noise.
    """
    device = network.mean.device
    rows, noise_id = cases.rows(galaxies), cases.noise_id[galaxies]
    drawn = list(draw_stamps(rows, population, shape, pixel_scale))
    images = np.concatenate([part for part, _ in drawn]).reshape(-1, ROTATIONS, SHEARS, 1, 1, *shape)
    psf = drawn[0][1] if drawn[0][1].ndim == 2 else np.concatenate([part for _, part in drawn])
    fields = cases.observing.unit_noise(seed, noise_id.ravel(), shape)
    sigma = np.broadcast_to(cases.sigma[galaxies, None, None], noise_id.shape)
    depth = cases.observing.depths(seed, noise_id.ravel())
    if depth is not None:
        sigma = sigma * depth.reshape(noise_id.shape)
    level = sigma[..., None, None].astype(np.float32)
    noise = np.expand_dims(level * fields.reshape(*noise_id.shape, *shape), (2, 4))  # shear, sign
    signs = np.array([1, -1], np.float32)[:, None, None]
    stamps = images + signs * noise
    size = stamps.shape[:5]
    mask = cases.observing.masks(seed, noise_id.ravel(), shape)
    pixels = stamps.reshape(-1, *shape)
    if mask is not None:
        masks = np.expand_dims(mask.reshape(*noise_id.shape, *shape), (2, 4))
        pixels = filled(pixels, np.broadcast_to(masks, stamps.shape).reshape(pixels.shape))
    of_stamp = np.broadcast_to(np.expand_dims(sigma, (2, 4)), size).ravel()
    if psf.ndim == 3:
        psf = np.repeat(psf, size[3] * size[4], 0)
    elif network.per_galaxy_psf:
        psf = np.broadcast_to(psf, pixels.shape)
    found = [
        _measured(network, pixels[part], psf if psf.ndim == 2 else psf[part], of_stamp[part], device)
        for part in (slice(start, start + _STAMPS) for start in range(0, len(pixels), _STAMPS))
    ]
    values, error = (
        torch.cat(parts).unflatten(0, size).permute(0, 2, 3, 1, 4, 5).flatten(3, 4) for parts in zip(*found)
    )
    true = rows[["g1", "g2"]].to_numpy(np.float64).reshape(-1, ROTATIONS, SHEARS, 1, 2).swapaxes(1, 2)
    return Answers(
        values,
        error,
        torch.from_numpy(np.repeat(true, 2, 3)).flatten(2, 3),
        torch.from_numpy(cases.shear[galaxies]),
        torch.from_numpy(cases.sigma[galaxies]),
    )


def _measured(
    network: ShearNetwork,
    images: NDArray[np.float32],
    psf: NDArray[np.float32],
    sigma: NDArray[np.float64],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return `features` and errors of stamps, on the CPU."""
    level = torch.from_numpy(sigma.astype(np.float32)).to(device)
    pixels, seen = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (images, psf))
    answer = network(pixels, seen, level)
    return features(network, answer, level).cpu(), answer.error.cpu()


def fit_member(
    committee: Committee, number: int, training: Answers, validation: Answers, iterations: int
) -> dict[str, float]:
    """Train a perceptron of a committee by BFGS, and keep the weights that are best on the validation.

    Parameters
    ----------
    committee : Committee
    number : int
        Number of the perceptron; its component is ``number % 2``.
    training, validation : Answers
    iterations : int
        Largest number of iterations.

    Returns
    -------
    dict
        ``member``, ``component`` (1 or 2), ``iterations``, and the mean squared biases ``train_msb``,
        ``validation_msb`` and ``uncorrected_msb``, the last one of the network's own answers for the
        validation.
    """
    perceptron, component = committee.perceptrons[number], number % 2
    data = []
    for part in (training, validation):
        values = part.values.flatten(0, 1)  # of each case
        data.append((values, committee.scaled(values), part.shear[..., component].flatten()))

    def bias(part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        values, scaled, truth = part
        return msb(committee.corrected(number, values, scaled).flatten(1), truth)

    unit = float(data[0][2].square().mean())
    best = float("inf"), parameters_to_vector(perceptron.parameters()).detach().numpy(), 0
    done = 0

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        vector_to_parameters(torch.from_numpy(weights), perceptron.parameters())
        perceptron.zero_grad()
        value = bias(data[0]) / unit
        value.backward()
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in perceptron.parameters()]
        return float(value.detach()), parameters_to_vector(gradient).numpy()

    def judge(weights: NDArray[np.float64]) -> None:
        nonlocal best, done
        vector_to_parameters(torch.from_numpy(weights.copy()), perceptron.parameters())
        with torch.no_grad():
            value = float(bias(data[1]))
        if value < best[0]:
            best = value, weights.copy(), done
        done += 1

    def each(intermediate_result: OptimizeResult) -> None:
        judge(intermediate_result.x)

    judge(best[1])
    minimize(
        loss, best[1], jac=True, method="BFGS", callback=each, options={"maxiter": iterations, "gtol": 1e-7}
    )
    vector_to_parameters(torch.from_numpy(best[1]), perceptron.parameters())
    with torch.no_grad():
        trained = float(bias(data[0]))
    plain = float(msb(data[1][0][..., component].double().flatten(1), data[1][2]))
    return {
        "member": number // 2 + 1,
        "component": component + 1,
        "iterations": best[2],
        "train_msb": trained,
        "validation_msb": best[0],
        "uncorrected_msb": plain,
    }


def calibrate(
    model: TrainedNetwork,
    population: Population,
    *,
    galaxies: int,
    realisations: int,
    noise: tuple[float, float],
    shear: float,
    members: int,
    hidden: Sequence[int],
    iterations: int,
    seed: int,
    checkpoint: Checkpoint,
    threads: int = 1,
    device: torch.device | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train a committee that corrects the answers of a network, or continue from the checkpoint.

    Parameters
    ----------
    model : TrainedNetwork
    population : Population
        The population that it was trained on.
    galaxies, realisations, noise, shear
        The cases, see `sample_cases`.
    members, hidden
        See `Committee`.
    iterations : int
        Largest number of iterations of each perceptron.
    seed : int
        The run's seed: of galaxies, noise and initial weights.
    checkpoint : Checkpoint
        The state is saved there every half a minute.
    threads : int
        Number of CPU threads.
    device : torch.device, optional
        On which the network measures: by default a GPU if one is visible, else the CPU.

    Returns
    -------
    calibration : dict
        See `calibrated_content`.
    history : pandas.DataFrame
        A row for each perceptron, see `fit_member`.

    Raises
    ------
    ShearbenchError
        The training of the network diverged, or too few stamps can be measured.
    ConfigError
        See `sample_cases`.
    """
    about = model.about
    name, shape, pixel_scale = about["population"], tuple(about["shape"]), about["pixel_scale"]
    if about["diverged"]:
        raise ShearbenchError(
            f"the training of {about['variant']} diverged, so that there is nothing to calibrate; change its "
            "training"
        )
    cases = sample_cases(population, name, galaxies, realisations, noise, shear, seed, pixel_scale)
    device = pick_device() if device is None else device
    state = checkpoint.load(torch.device("cpu")) or {"answers": [], "weights": [], "history": []}
    saved = time.monotonic()

    def save() -> None:
        nonlocal saved
        if time.monotonic() - saved > _SAVE:
            checkpoint.save(state)
            saved = time.monotonic()

    with torch_settings(threads, 0, device):
        network = model.network.to(device)
        step = max(1, 4 * _STAMPS // (2 * ROTATIONS * SHEARS * realisations))
        for start in range(len(state["answers"]) * step, galaxies, step):
            part = slice(start, min(start + step, galaxies))
            found = answers_for(network, cases, part, population, shape, pixel_scale, seed)
            state["answers"].append([getattr(found, field) for field in Answers.__dataclass_fields__])
            save()
        network.to("cpu")
        answers = Answers(*map(torch.cat, zip(*state["answers"]))).finite
        if len(answers.sigma) < galaxies / 2:
            raise ShearbenchError(
                f"{about['variant']}: {galaxies - len(answers.sigma)} of {galaxies} galaxies have stamps "
                "that the network cannot measure; mask fewer pixels"
            )
        committee = Committee(answers.values.shape[-1], hidden, members, _seed_of(seed, about["seed"]))
        judged = max(1, round(SHARE * len(answers.sigma)))
        training, validation = answers.of(slice(judged, None)), answers.of(slice(judged))
        committee.fit_scaling(training.values.flatten(0, -2))
        for number, perceptron in enumerate(committee.perceptrons):
            if number < len(state["weights"]):
                vector_to_parameters(state["weights"][number], perceptron.parameters())
                continue
            state["history"].append(fit_member(committee, number, training, validation, iterations))
            state["weights"].append(parameters_to_vector(perceptron.parameters()).detach())
            save()
        errors = calibrated_errors(model.network, committee, answers)
    calibration = {
        "inputs": feature_names(model.network),
        "hidden": list(hidden),
        "members": members,
        "noise": tuple(noise),
        "state": committee.state_dict(),
        "errors": errors,
    }
    return calibration, pd.DataFrame(state["history"])


def _seed_of(*numbers: int) -> int:
    return seeded(torch.Generator(), *numbers).initial_seed()


@torch.no_grad()
def calibrated_errors(network: ShearNetwork, committee: Committee, answers: Answers) -> dict[str, Tensor]:
    """Return the tables of errors of the corrected shapes, as `ShearNetwork.calibrate` makes them.

    The stamps of the cases are divided into noise levels. Their true values are the shapes of the stamps.
    """
    fresh = copy.deepcopy(network)
    sigmas, pulls, snrs = [], [], []
    order = answers.sigma.argsort()
    groups = order.tensor_split(min(_LEVELS, len(answers.sigma.unique())))
    for group in groups:
        part = answers.of(group)
        shapes = committee(part.values.flatten(0, -2)).mean(0)
        truth = part.shapes[:, :, None].expand_as(part.error).flatten(0, -2)
        sigmas.append(float(part.sigma.log().mean().exp()))
        pulls.append(((shapes - truth) / part.error.flatten(0, -2)).float())
        snrs.append((10 ** part.values[..., 2]).flatten())
    fresh.calibrate(sigmas, pulls, snrs)
    return {name: getattr(fresh, name) for name in ("error_sigma", "error_snr", "error")}


def calibrated_content(network: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the model file of a calibrated network.

    It is a model file too: `load_model` reads the network, whose answers are those without the correction.

    Parameters
    ----------
    network : mapping
        The content of the network's own model file.
    calibration : mapping
        From `calibrate`: ``inputs`` (names), ``hidden``, ``members``, ``noise`` (lowest and highest level),
        ``state`` (of the `Committee`) and ``errors`` (tables of the errors).
    """
    return {**network, "calibration": dict(calibration)}


def load_calibrated(path: str, variant: str | None = None) -> tuple[ShearNetwork, Committee]:
    """Read a calibrated network, whose errors are those of the corrected shapes.

    Parameters
    ----------
    path : str
    variant : str, optional
        Name of the network that the file must hold.

    Raises
    ------
    ContractError
        The file cannot be read, holds another network, or one without a calibration.
    """
    model = load_model(path, variant)
    try:
        found = model.about["calibration"]
        committee = Committee(len(found["inputs"]), found["hidden"], found["members"])
        committee.load_state_dict(found["state"])
        for name in ("error_sigma", "error_snr", "error"):
            setattr(model.network, name, found["errors"][name])
    except (KeyError, RuntimeError) as error:
        raise ContractError.of(path, "calibration", repr(error), "a calibration", RULE) from error
    return model.network, committee.eval()
