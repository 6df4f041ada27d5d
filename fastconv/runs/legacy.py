"""Maps names of settings and results in earlier versions to today's, so that old run folders stay readable."""

from typing import Any

# Old keys of settings and their new keys; settings of a group stay in their group.
SETTINGS = {
    "norm_batch": "micro_batch_size",
    "model.norm_batch": "model.micro_batch_size",
    "tta.mirror": "tta.flip",
    "tta.around": "tta.neighbors",
    "tta.below": "tta.confidence_threshold",
    "augment.policy": "augment.auto",
    "augment.colour": "augment.color_jitter",
    "augment.colour.brightness": "augment.color_jitter.brightness",
    "augment.colour.contrast": "augment.color_jitter.contrast",
    "optimizer.bias_factor": "optimizer.bias_lr_scale",
    "optimizer.whitening_until": "optimizer.whiten_bias_fraction",
    "schedule.final_factor": "schedule.min_lr_ratio",
    "schedule.epochs": "schedule.max_epochs",
    "average.every": "average.update_interval",
    "rest": "data_pruning",
    "choose": "autotune",
    "plan_only": "dry_run",
}
RESULTS = {
    "norm_batch": "micro_batch_size",
    "views_left_out": "tta_skipped",
    "data_wait_fraction": "dataloader_wait_fraction",
    "stopped_by": "stop_reason",
    "recipe": "hparams",
}
# Settings that no longer exist.
GONE = ("sweep.explain", "sweep.article")
# Old and new words, alone or in lists, by the key.
WORDS = {
    "budget.counts": {"probe": "benchmark"},
    "budget_counts": {"probe": "benchmark"},
    "autotune": {"rest": "data_pruning"},
    "target": {"answer": "prediction"},
}


def current_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings, nested or by dotted key, under their current names."""
    found = {}
    for name, value in settings.items():
        key = SETTINGS.get(f"{prefix}{name}", f"{prefix}{name}")
        if key in GONE:
            continue
        if isinstance(value, dict):
            value = current_settings(value, f"{prefix}{name}.")
        found[key.rpartition(".")[2] if prefix else key] = _current_words(key, value)
    return found


def current_results(results: dict[str, Any]) -> dict[str, Any]:
    """The content of a `results.json` under its current names."""
    found = {RESULTS.get(key, key): value for key, value in results.items()}
    found = {key: _current_words(key, value) for key, value in found.items()}
    if isinstance(seconds := found.get("seconds"), dict) and "probe" in seconds:
        found["seconds"] = {"benchmark" if name == "probe" else name: spent for name, spent in seconds.items()}
    if isinstance(hparams := found.get("hparams"), dict):
        found["hparams"] = current_settings(hparams)
    return found


def _current_words(key: str, value: Any) -> Any:
    words = WORDS.get(key, {})
    if not words or not isinstance(value, list):  # the reader of the results refuses values of other types
        return value
    return [words.get(word, word) if isinstance(word, str) else word for word in value]
