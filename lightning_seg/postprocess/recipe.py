"""Post-processing chains in YAML: a list of steps by class path, each with ranges for tuning its settings.

    - class_path: lightning_seg.postprocess.crf.DenseCRF
      init_args: {bilateral_weight: 4, color_std: 5}
      tune: {bilateral_weight: [1, 10], color_std: [3, 20]}
    - class_path: lightning_seg.postprocess.components.RemoveSmall
      init_args: {smallest: 50, classes: [pole, sign]}
      tune: {smallest: [10, 500]}

Two numbers are a range, on a logarithmic scale if its end is ten times its start or more; anything else is a choice.
Leave out `tune` and the same list is the setting `model.postprocess` of an experiment.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import yaml
from jsonargparse import ArgumentParser

from lightning_seg.errors import UserError, did_you_mean, parameters_of_subclasses, without_noise
from lightning_seg.postprocess import components, confidence, crf, morphology, superpixels
from lightning_seg.postprocess.chain import Chain, Step
from lightning_seg.runs.directory import JsonObject

# jsonargparse finds the steps by their short names where these were imported.
_STEPS = (components, confidence, crf, morphology, superpixels)


@dataclass(frozen=True)
class Recipe:
    """A chain of steps as read from YAML.

    Attributes:
        name: Name of the chain in tables.
        steps: For each step its ``class_path`` and ``init_args``.
        ranges: For each step the ranges or choices of its settings in tuning.
    """

    name: str
    steps: list[JsonObject]
    ranges: list[dict[str, list[Any]]]

    def build(self, class_names: tuple[str, ...]) -> Chain:
        """Build the chain.

        Raises:
            UserError: A step does not exist or does not take its settings, or the steps are in a wrong order.
        """
        return Chain([_build(step, number) for number, step in enumerate(self.steps, 1)], class_names)

    def single(self) -> list["Recipe"]:
        """Return a recipe for each single step, named after its class and the settings that differ within a class."""
        named = [(step["class_path"].rpartition(".")[2], step["init_args"]) for step in self.steps]
        recipes = []
        for i, (name, own) in enumerate(named):
            alike = [settings for other, settings in named if other == name]
            differing = [f" {k}={v}" for k, v in own.items() if any(s.get(k) != v for s in alike)]
            recipes.append(Recipe(name + "".join(differing), [self.steps[i]], [self.ranges[i]]))
        return recipes

    @property
    def tunable(self) -> bool:
        """Whether any setting can be tuned."""
        return any(self.ranges)

    @property
    def settings(self) -> JsonObject:
        """Current values of the settings that can be tuned, by ``<position>.<setting>``."""
        built = [_build(step, number) for number, step in enumerate(self.steps, 1)]
        return {f"{i}.{name}": getattr(built[i], name) for i, r in enumerate(self.ranges) for name in r}

    def with_settings(self, settings: JsonObject) -> "Recipe":
        """Return the recipe with other values, by ``<position>.<setting>``."""
        steps = copy.deepcopy(self.steps)
        for key, value in settings.items():
            place, _, name = key.partition(".")
            steps[int(place)]["init_args"][name] = value
        return Recipe(self.name, steps, self.ranges)


def read_recipe(file: Path, class_names: tuple[str, ...]) -> Recipe:
    """Read a chain, and build it once to see that it can be.

    Raises:
        UserError: The file cannot be read, or something in it is wrong.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"no chain of post-processing {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {error}") from None
    if not isinstance(content, list) or not all(isinstance(s, dict) and "class_path" in s for s in content):
        raise UserError(
            f"{file} must be a list of steps, each with a class_path; see experiments/postprocess/."
        )
    steps, ranges = [], []
    for number, step in enumerate(content, 1):
        step = {"init_args": {}} | {key: value or {} for key, value in step.items()}
        tune = step.pop("tune", {})
        if not isinstance(tune, dict) or not all(isinstance(v, list) and len(v) > 1 for v in tune.values()):
            raise UserError(
                f"{file}, step {number}: tune must name settings with [low, high] or a list of choices."
            )
        steps.append(step)
        ranges.append(tune)
    recipe = Recipe(file.stem, steps, ranges)
    try:
        recipe.build(class_names)
        every = {f"{i}.{name}": values[0] for i, tune in enumerate(ranges) for name, values in tune.items()}
        recipe.with_settings(every).build(class_names)  # what is to be tuned exists
    except UserError as error:
        raise UserError(f"{file}, {error}") from None
    for key, value in recipe.settings.items():
        place, _, name = key.partition(".")
        values = ranges[int(place)][name]
        if not (values[0] <= value <= values[1] if _is_range(values) else value in values):
            raise UserError(
                f"{file}, step {int(place) + 1}: {name} is {value}, which {values} to tune it in leaves out."
            )
    return recipe


def tune(recipe: Recipe, score: Callable[[Recipe], float], trials: int, seed: int = 0) -> Recipe:
    """Search the ranges of a recipe for the highest score, starting from its current settings.

    The sampler is that of Bergstra et al., "Algorithms for hyper-parameter optimization", NIPS 2011.

    Args:
        recipe: The recipe.
        score: Maps a recipe to its score; higher is better.
        trials: Number of settings to try.
        seed: Seed of the search.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "--tune needs optuna, which is not installed: uv pip install 'lightning-seg[postprocess]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def suggest(trial: optuna.Trial) -> JsonObject:
        found = {}
        for i, ranges in enumerate(recipe.ranges):
            for name, values in ranges.items():
                if not _is_range(values):
                    found[f"{i}.{name}"] = trial.suggest_categorical(f"{i}.{name}", values)
                    continue
                low, high = values
                whole = isinstance(low, int) and isinstance(high, int)
                draw = trial.suggest_int if whole else trial.suggest_float
                found[f"{i}.{name}"] = draw(f"{i}.{name}", low, high, log=low > 0 and high >= 10 * low)
        return found

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(recipe.settings, skip_if_exists=True)
    study.optimize(lambda trial: score(recipe.with_settings(suggest(trial))), n_trials=trials)
    return recipe.with_settings(study.best_params)


def _is_range(values: list[Any]) -> bool:
    """Whether the values are the ends of a range, not choices."""
    return len(values) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


class _StepParser(ArgumentParser):
    """Gives the reason alone; which step it is, `_build` says."""

    def error(self, message: str, ex: Exception | None = None) -> Never:  # type: ignore[override]
        message = without_noise(message)
        raise UserError(f"{message}{did_you_mean(message, parameters_of_subclasses(Step))}") from None


def _build(step: JsonObject, number: int) -> Step:
    parser = _StepParser(exit_on_error=False)
    parser.add_argument("--step", type=Step)
    try:
        return parser.instantiate(parser.parse_object({"step": step})).step
    except UserError as error:
        raise UserError(f"step {number} ({step['class_path']}): {error}") from None
