"""The one training loop: stream, gradients, update, metrics, held-out loss, checkpoints; for every objective."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from danlu.ledger.checkpoints import checkpoint_folder
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import fingerprint, require_space
from danlu.ledger.manifest import write_manifest
from danlu.ledger.progress import Bar, brief, progress
from danlu.ledger.signals import Stop, graceful_stop
from danlu.model.adapt import AdapterShape, copy_structure
from danlu.model.adapter_folder import Base
from danlu.model.decoder import Decoder
from danlu.tokens.prefetch import Prefetcher
from danlu.train import checkpoint, held_out, parallel, reference, resume, retention, schedule
from danlu.train.background import Background
from danlu.train.ceiling import ceiling_flops
from danlu.train.data_check import check_data
from danlu.train.fewer_rows import fewer_rows
from danlu.train.finite import require_finite
from danlu.train.health import Health
from danlu.train.journal import Journal
from danlu.train.memory import fitting_rows, with_sharding
from danlu.train.meter import Meter
from danlu.train.network import block_matrices, build, in_its_form
from danlu.train.next_setting import next_setting
from danlu.train.objectives.base import Objective
from danlu.train.optim import Optimizer
from danlu.train.position import Position
from danlu.train.precision import DTYPES, LossScale
from danlu.train.randomness import deterministic, generator_states, seed_step, set_generator_states
from danlu.train.settings import TrainSettings
from danlu.train.step import CutShort, DoesNotFit, Stepper, work_of
from danlu.train.task import Task
from danlu.train.tune_settings import LoRA, QLoRA, trained_share
from danlu.train.tuning import adapter_shape, base_of

if TYPE_CHECKING:
    from danlu.tokens.stream import Step, Stream
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer


def train(
    settings: TrainSettings,
    objective: Objective,
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: Template | None,
    stream: Stream,
    held_out: Mapping[str, Stream],
    out: Path,
    *,
    cache: Path | None = None,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 42,
) -> Path:
    """Trains `decoder` (float32, on the CPU; used up) on `stream` and gives the folder of the last checkpoint.

    Writes `out`/metrics.jsonl, `out`/checkpoints/step-… and, once finished, `out`/manifest.json. Started by torchrun,
    all processes call this alike.

    Args:
        held_out: streams of one epoch by source.
        cache: where reference log-probabilities are kept; None: `out`/reference.
        device: None: CUDA where there is one, else the CPU.
        config: kept in each checkpoint; None: `settings`.
        seed: of a new adapter's weights, of dropout and of noise.

    Raises UserError for what the user can mend, and Stopped when asked to stop, after saving the last whole step.
    """
    world = parallel.join(device)
    stream, *shaped = (
        in_its_form(one, settings, decoder.settings, world.device) for one in (stream, *held_out.values())
    )
    held_out = dict(zip(held_out, shaped, strict=True))
    task = Task(objective, decoder, tokenizer, template, stream, held_out, out, cache or out / "reference")
    with deterministic(settings.deterministic), graceful_stop() as stop:
        return Run(settings, task, world, dict(config or settings.model_dump(mode="json")), seed, stop).go()


class Run:
    """A run in progress: where it is, and all that moves with it."""

    def __init__(
        self,
        settings: TrainSettings,
        task: Task,
        world: parallel.World,
        config: dict[str, Any],
        seed: int,
        stop: Stop,
    ) -> None:
        settings = with_sharding(settings, task.decoder.settings, world)
        self.settings, self.world, self.config, self.seed, self.stop = settings, world, config, seed, stop
        self.out, self.shape = task.out, task.decoder.settings
        self.fingerprints = task.fingerprints()
        self.plan = schedule.Plan.of(settings, task.stream.total)
        self.rows = settings.rows or fitting_rows(settings, self.shape, task.stream, world)
        self.blank = Decoder.empty(self.shape, device="meta")
        weights = reference.weights_fingerprint(task.decoder) if task.objective.needs_reference else None
        if weights and isinstance(settings.tune, QLoRA):
            weights = f"{weights} in NF4"
        self.adapter: tuple[AdapterShape, Base] | None = None
        if isinstance(settings.tune, LoRA):
            made, base = adapter_shape(settings.tune), base_of(task.decoder, task.out, world, task.tokenizer)
            self.adapter = made, base
            kind = str(replace(made, dropout=0.0))
            self.fingerprints["model"] = fingerprint([self.fingerprints["model"], kind, base.mark])
        network, masters = build(task.decoder, settings, world, seed=seed)
        copy_structure(network.decoder, self.blank)
        self.task = task if weights is None else task.with_reference(network, weights, self.rows, world, stop)
        self.stream, self.tags = self.task.stream, held_out.by_tag(self.task.held_out, settings.by)
        dtype, share = DTYPES[settings.precision], trained_share(settings.tune, self.shape)
        self.stepper = Stepper(
            network,
            task.objective,
            masters,
            Optimizer(settings, masters.parameters, block_matrices(self.blank)),
            LossScale(dtype),
            world,
            Meter(self.shape, self.stream.length, world, share, ceiling_flops(world.device, dtype)),
            stop,
        )
        self.health = Health()
        self.saving = Background()
        self.at = Position()
        self.last: Path | None = None
        self.safe = 0
        """The step from which the same command would go on."""

    def go(self) -> Path:
        """Trains from where `settings.resume` says to the end of the plan."""
        self._prepare()
        self._resume()
        with (
            Journal(
                self.out, self.task.objective, self.settings, self.config, self.at.step, self.world
            ) as self.journal,
            progress(f"{self.task.objective.name} {self.out.name}", self.plan.budget - self.at.consumed, "examples")
            if self.world.main
            else nullcontext() as bar,
            self.saving,
        ):
            try:
                while self.at.unmeasured or not self._ended():
                    try:
                        if self.at.unmeasured:
                            self._evaluate_and_save()
                        self._train(bar)
                    except DoesNotFit as error:
                        place = f"step {self.at.step + (not self.at.unmeasured)}"
                        self.rows = fewer_rows(error, self.rows, self.stream.least_rows, place, self.world)
                self.saving.wait()
                if self.world.any(self.stop.requested):  # what would come after the run is not begun either
                    self._leave()
            except CutShort:
                self._leave()
        return self._finish()

    def _train(self, bar: Bar | None) -> None:
        """Takes steps of `rows` rows a micro-batch to the end of the plan."""
        at, world = self.at, self.world
        steps = schedule.steps(
            self.stream, self.settings, self.plan, at.consumed, at.tokens, world.rank, world.size, self.rows
        )
        with Prefetcher(steps) as prefetched:
            while (step := self._next(prefetched)) is not None:
                before, taken = self.at.consumed, self.at.step
                stopped = self._take(step)
                if bar is not None:
                    bar.advance(self.at.consumed - before, **self.journal.shown)
                self.at.epoch_ended = before // self.stream.epoch < self.at.consumed // self.stream.epoch
                if self.at.step == taken and not (self._ended() or self._kept()):
                    continue  # every example was dropped: what is due at this step was done
                compared = self.settings.save.keep_best > 0 and self._saves()
                self.at.unmeasured = self._ended() or compared or _due(self.settings.evaluate_every, self.at.step)
                self._evaluate_and_save(stopped)

    def _next(self, prefetched: Prefetcher) -> Step | None:
        with self.stepper.meter.phase("data"):
            return next(prefetched, None)

    def _take(self, step: Step) -> bool:
        """Takes one step and writes its metrics; says whether any rank was asked to stop."""
        if self.task.objective.normaliser(step) == 0:  # every example was dropped: nothing to learn from
            self.at.consumed = step.consumed
            self.at.reasons.update(step.reasons)
            return False
        rate = schedule.learning_rate(self.settings, self.plan, self.at.consumed)
        scale = self.stepper.scale.value
        if self.settings.neftune or getattr(self.settings.tune, "dropout", 0.0):
            seed_step(self.seed, self.at.step, self.world.rank)
        outcome = self.stepper.take(step, rate, self.settings.clip)
        first, self.at.consumed = self.at.consumed, step.consumed
        self.at.step += 1
        self.at.held_out_loss = None
        self.at.tokens += step.tokens
        self.at.reasons.update(step.reasons)
        metrics = self.task.objective.report(outcome.sums, self.task.objective.normaliser(step), step.text_bytes)
        self.health.observe(metrics["loss"], outcome.grad_norm, scale)
        self.journal.write(
            self.at.step,
            consumed=self.at.consumed,
            tokens=self.at.tokens,
            epoch=self.at.consumed / self.stream.epoch,
            examples=step.examples,
            learning_rate=rate,
            grad_norm=outcome.grad_norm,
            loss_scale=scale,
            non_finite=self.health.non_finite,
            **metrics,
            **self.stepper.meter.read(work_of(step), self.plan.budget - self.at.consumed),
        )
        if not outcome.applied:
            require_finite(self.stepper.network.decoder, self.blank, self.world)
        if self.health.in_a_row >= self.settings.max_bad_steps:
            raise UserError(
                f"loss or gradient was not finite for {self.health.in_a_row} steps in a row; none of them was applied",
                where=f"step {self.at.step}, stream positions up to {self.at.consumed}",
                do=f"look at that data (the last step began at {first}), lower learning_rate, "
                "or go on past it with resume=healthy and skip=[[from, to]]",
            )
        return outcome.stop

    def _evaluate_and_save(self, stopped: bool = False) -> None:
        if stopped:
            self._leave()
        with self.stepper.meter.phase("saving"):
            if self.at.unmeasured:
                self._evaluate()
            if self._saves():
                self._save(self.settings.save.weights_only)

    def _ended(self) -> bool:
        return self.at.consumed >= self.plan.budget

    def _saves(self) -> bool:
        return self._ended() or self._kept() or _due(self.settings.save.every, self.at.step)

    def _kept(self) -> bool:
        return self.at.epoch_ended and self.settings.save.every_epoch

    def _leave(self) -> NoReturn:
        """Saves the last whole step, if it is not, and ends the run."""
        if self.safe < self.at.step:
            self._save(weights_only=False)
        self.saving.wait()
        if self.last is None:
            raise Stopped("stopped before a step was applied; the same command begins anew")
        raise Stopped(f"stopped after step {self.at.step}, saved in {self.last}; the same command goes on from there")

    def _evaluate(self) -> None:
        """Measures the held-out loss. Raises CutShort when asked to stop meanwhile, and DoesNotFit."""
        stepper = self.stepper
        how = (self.settings.batch, self.rows, self.world, self.stop)
        results = held_out.measure(stepper.network, stepper.objective, self.task.held_out, *how)
        by_tag = held_out.measure_tags(stepper.network, stepper.objective, self.tags, *how)
        for source, metrics in results.items():
            self.journal.write(self.at.step, source=source, **metrics)
        for tag, metrics in by_tag.items():
            self.journal.write(self.at.step, tag=tag, **metrics)
        if results:
            self.at.held_out_loss = results[held_out.ALL]["held_out_loss"]
        self.at.unmeasured = False

    def _save(self, weights_only: bool) -> None:
        """Copies the state; writing it goes on beside the next steps, and ends before the next save begins. Weights
        that no step has changed are none of this run.
        """
        if not self.stepper.optimizer.updates:
            return
        self.saving.wait()
        snapshot = checkpoint.take_snapshot(self.stepper.masters, self.stepper.optimizer, self.world)
        self.last, state, keep = checkpoint_folder(self.out, self.at.step), self._state(), self._kept()
        self.safe = self.safe if weights_only else self.at.step
        if self.world.main:
            self.saving.start(lambda: self._write(snapshot, state, keep, weights_only))

    def _write(self, snapshot: checkpoint.Snapshot, state: dict[str, Any], keep: bool, weights_only: bool) -> None:
        checkpoint.write_checkpoint(
            self.out,
            snapshot,
            state,
            self.blank,
            self.task.tokenizer,
            self.task.template.stop_ids if self.task.template else (),
            DTYPES[self.settings.precision],
            weights_only=weights_only,
            keep=keep,
            adapter=self.adapter,
        )
        retention.prune(self.out, self.settings.save)

    def _state(self) -> dict[str, Any]:
        rate = schedule.learning_rate(self.settings, self.plan, self.at.consumed)
        return {
            **vars(self.at),
            "reasons": dict(self.at.reasons),  # a copy: training goes on beside the writing
            "epoch": self.at.consumed / self.stream.epoch,
            "updates": self.stepper.optimizer.updates,
            "schedule": {**asdict(self.plan), "learning_rate": rate},
            "loss_scale": self.stepper.scale.state(),
            "health": {"record": self.health.record().as_dict(), "state": self.health.state()},
            "rng": generator_states(self.world.device),
            "fingerprints": self.fingerprints,
            "settings": self.settings.model_dump(mode="json"),
            "config": self.config,
        }

    def _resume(self) -> None:
        if (choice := resume.choose(self.settings.resume, self.out)) is None:
            self.world.wait()  # all have looked before any is moved
            if self.world.main and (told := resume.begun_anew(self.out)):
                print(told, file=sys.stderr, flush=True)
            return
        resume.check(choice, self.fingerprints)
        state = choice.trainer
        self.at = Position(**{name: state[name] for name in vars(self.at) if name in state})
        self.at.reasons = Counter(self.at.reasons)
        checkpoint.restore(choice.path, self.blank, self.stepper.masters, self.stepper.optimizer, state["updates"])
        self.stepper.scale.load(state["loss_scale"])
        self.health.load(state["health"]["state"])
        set_generator_states(state["rng"], self.world.device)
        self.last, self.safe = choice.path, self.at.step
        self.world.wait()
        if self.world.main:
            print(resume.told(choice, self.settings.model_dump(mode="json"), self.out), file=sys.stderr, flush=True)
        if choice.lost:
            self._save(weights_only=False)

    def _prepare(self) -> None:
        """Refuses to begin where the data is outside its limits or the checkpoints of the whole run cannot fit."""
        if not self.world.main:
            return
        retention.sweep(self.out)
        check_data(self.stream, self.task.tokenizer, self.settings.limits, self.out)
        if told := schedule.more_than_an_epoch(self.settings, self.plan, self.stream.epoch):
            print(told, file=sys.stderr, flush=True)
        epochs = self.plan.budget / self.stream.epoch
        count = retention.most_at_once(self.settings.save, self.plan.steps, epochs)
        each = checkpoint.expected_bytes(self.shape, self.settings)
        require_space(self.out, count * each, f"a run that keeps {count} checkpoints of {brief(each)}B")

    def _finish(self) -> Path:
        if self.at.step and not self.stepper.optimizer.updates:
            raise UserError(
                f"none of the {self.at.step} steps was applied, as loss or gradient was finite in none: the weights "
                "are still those that the run began with",
                where=str(self.out),
                do="lower learning_rate, set precision: bf16 or float32, and look at the data: danlu inspect RECIPE",
            )
        if self.last is None:
            raise UserError(
                "there was nothing to train on", where=str(self.out), do="look at `skip` and the pack stage's counts"
            )
        if self.world.main:
            speed, best = self._speed(), retention.best_first(self.out)
            write_manifest(
                self.out,
                {
                    "objective": self.task.objective.name,
                    "step": self.at.step,
                    "consumed": self.at.consumed,
                    "tokens": self.at.tokens,
                    "held_out_loss": self.at.held_out_loss,
                    "cut_or_dropped": dict(self.at.reasons),
                    "checkpoint": self.last.name,
                    "speed": speed,
                    "best": best[0].name if best and self.settings.save.load_best else None,
                    "fingerprints": self.fingerprints,
                    "settings": self.settings.model_dump(mode="json"),
                },
            )
        self.world.wait()
        return self.last

    def _speed(self) -> dict[str, Any] | None:
        """How fast the run was and what to turn next; told on standard error, too."""
        speed = self.stepper.meter.speed()
        if speed is None:
            return None
        turn = next_setting(speed, self.settings, self.shape, self.world)
        told = f"{speed}; next to turn: {turn.setting} ({turn.en})" if turn else str(speed)
        print(told, file=sys.stderr, flush=True)
        return {**asdict(speed), "next": asdict(turn) if turn else None}


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
