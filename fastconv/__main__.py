"""`python -m fastconv`: prints the commands and how to get their help."""

from fastconv import __doc__ as about

COMMANDS = {
    "train": "train a network inside a time budget, and score it",
    "precompute": "write the augmented training stream ahead",
    "lr_find": "suggest a peak learning rate",
    "audit": "check a data set before training on it",
    "evaluate": "score a trained network, and write the page of its run",
    "explain": "show and measure where trained networks look",
    "compare": "make one table and one page of many runs",
    "predict": "classify images",
    "export": "write a trained network as ONNX and torch.export files",
}


def main() -> None:
    """Print the commands."""
    print(about, end="\n\n")
    for name, purpose in COMMANDS.items():
        print(f"  python -m fastconv.{name:<11} {purpose}")
    print("\nEach explains its settings with --help.")


if __name__ == "__main__":
    main()
