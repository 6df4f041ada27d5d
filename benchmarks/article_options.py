"""What the command line of benchmarks/article.py asks for."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from measurements import RESULTS, describe_device, describe_processor

from fastconv.system.errors import InputError

LENGTHS = {"cifar10": ("25", "2", "6", "12"), "fashion_mnist": ("25", "2", "6", "12"), "mnist": ("25", "2")}
WIDTH = "64"
PAGE = RESULTS.parent.parent / "docs" / "article.md"
# Settings of fastconv.train that each run has of its own, and the arguments that choose them here.
OWN = {"seed": "seeds", "dataset": "datasets", "schedule.max_epochs": "epochs", "outputs": "results"}


@dataclass
class Options:
    """What the command line asks for."""

    seeds: str = "0,1,2"
    datasets: str = ",".join(LENGTHS)
    epochs: str = ""
    heatmaps: str = "25,2"
    elsewhere: str = ""
    results: str = ""
    explain: list[str] = field(default_factory=list)
    train: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, arguments: tuple[str, ...]) -> "Options":
        """Read the command line. Raises InputError for a value that is not possible."""
        options = cls()
        for argument in arguments:
            name, _, value = argument.partition("=")
            if name.startswith("explain."):
                options.explain.append(argument.removeprefix("explain."))
            elif name in (each.name for each in fields(cls) if each.type is str):
                setattr(options, name, value)
            elif name in ("augment", *OWN):
                setter = OWN.get(name, "this experiment")
                raise InputError(f"{argument} is not possible: {setter} sets {name} of each run")
            else:
                options.train.append(argument)
        kinds = {"seeds": int, "epochs": float, "heatmaps": float}
        for name, kind in kinds.items():
            try:
                list(map(kind, options.listed(name)))
            except ValueError:
                text, such = getattr(options, name), getattr(cls, name) or "25"
                raise InputError(f"{name}={text} is not possible: give numbers, as {name}={such}") from None
        if options.elsewhere not in ("", "skip"):
            raise InputError(f"elsewhere={options.elsewhere} is not possible: give elsewhere=skip, or nothing")
        return options

    def listed(self, name: str) -> list[str]:
        """The values of an argument; none for an empty one, or for heatmaps=none."""
        return [each for each in getattr(self, name).split(",") if each and each != "none"]

    def jobs(self) -> Iterator[tuple[str, int, str]]:
        """Epochs, seed and data set of each pair of runs, those of most worth first."""
        datasets, given = self.listed("datasets"), tuple(self.listed("epochs"))
        lengths = {name: given or LENGTHS.get(name, ("25",)) for name in datasets}
        for epochs in dict.fromkeys(each for some in lengths.values() for each in some):
            for seed in map(int, self.listed("seeds")):
                yield from ((epochs, seed, name) for name in datasets if epochs in lengths[name])

    @property
    def width(self) -> int:
        return int(self.given("model.width") or WIDTH)

    def given(self, key: str) -> str:
        """The value of a setting of fastconv.train; empty if it is not given."""
        return next((each.partition("=")[2] for each in self.train if each.startswith(f"{key}=")), "")

    @property
    def device(self) -> str:
        """The name of what trains, as rows have it."""
        on_cpu = "cpu" in (self.given("trainer"), self.given("trainer.accelerator"))
        return describe_processor() if on_cpu else describe_device()

    @property
    def rows(self) -> Path:
        """The folder of the rows and of what belongs to them."""
        return Path(self.results) if self.results else RESULTS / "article"

    @property
    def outputs(self) -> Path:
        """The folder of the runs."""
        return self.rows / "runs" if self.results else Path("outputs/article")

    @property
    def page(self) -> Path:
        """The file of the page of docs."""
        return self.rows / "article.md" if self.results else PAGE
