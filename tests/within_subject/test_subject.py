"""Visits of a subject are labelled together: every visit alike, in any order, on any number of threads."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from unittest.mock import patch

import numpy as np
import pytest
from small_visits import GRID, MOTIONS, SCALING, aligned, brightness, centers, model, scan
from toy import quick_stages

from slant.config import SegmentSettings
from slant.errors import InputError, ModelError
from slant.nets import groupwise
from slant.nets.groupwise import Deformation
from slant.segmentation import Segmentation
from slant.sparse_votes import SparseVotes
from slant.timing import StepProgress
from slant.volume import Volume
from slant.within_subject.share import WEIGHT, shared_evidence
from slant.within_subject.subject import MIN_SIMILARITY, Subject, align_subject, label_visit, visit_votes

ONE = SegmentSettings(threads=1)
TWO = SegmentSettings(threads=2)


def together(visits: Sequence[int], settings: SegmentSettings = ONE, *, deformable: bool = False) -> Subject:
    """The subject of some visits of the small brain."""
    scans, inputs = [scan(visit) for visit in visits], model(groupwise=deformable).inputs
    with quick_stages():
        return align_subject([f"v{i}" for i in visits], scans, [aligned(i) for i in visits], inputs)


@dataclass(frozen=True, eq=False)
class Found:
    """The subject of some visits, with the votes and the segmentation of each."""

    subject: Subject
    votes: list[SparseVotes]
    segmentations: list[Segmentation]

    @property
    def contents(self) -> list[dict[str, object]]:
        """Of each visit, see `content`."""
        return [content(self.subject, i, found) for i, found in enumerate(self.segmentations)]


def found(*visits: int, settings: SegmentSettings = ONE, deformable: bool = False) -> Found:
    return _found(visits, settings, deformable)


@cache
def _found(visits: tuple[int, ...], settings: SegmentSettings, deformable: bool) -> Found:
    subject, used = together(visits, settings, deformable=deformable), model(groupwise=deformable)
    votes = [visit_votes(subject, i, used, settings) for i in range(len(visits))]
    return Found(subject, votes, [label_visit(subject, i, votes, used, settings) for i in range(len(visits))])


def content(subject: Subject, index: int, segmentation: Segmentation) -> dict[str, object]:
    """Everything that the segmentation of a visit contains, except times."""
    prepared = subject.prepared[index]
    assert segmentation.prepared is prepared
    deformation = prepared.deformation
    return {
        "labels": segmentation.labels.data.tobytes(),
        "confidence": segmentation.confidence.data.tobytes(),
        "template labels": segmentation.template_labels.data.tobytes(),
        "volumes": segmentation.volumes,
        "image": prepared.image.data.tobytes(),
        "brain": prepared.brain.data.tobytes(),
        "affine": prepared.native_from_template.tobytes(),
        "line": prepared.intensity_line,
        "field": [part.tobytes() for part in vars(subject.fields[index]).values()],
        "similarity": subject.similarities[index],
        "template": subject.template.data.tobytes(),
        "warnings": segmentation.warnings,
        "deformation": None if deformation is None else (deformation.displacement.tobytes(), deformation.similarity),
    }


# Unbiased


@pytest.mark.parametrize(
    ("order", "deformable"), [((2, 0, 1), False), pytest.param((1, 0), True, marks=pytest.mark.slow)]
)
def test_neither_the_order_of_the_visits_nor_the_number_of_threads_changes_anything(
    order: tuple[int, ...], deformable: bool
) -> None:
    first = found(*range(len(order)), deformable=deformable).contents
    other = found(*order, settings=TWO, deformable=deformable).contents
    assert [first[visit] for visit in order] == other
    assert len({str(visit["labels"]) for visit in first}) == len(order)


@pytest.mark.slow
def test_copies_of_a_scan_get_the_same_labels() -> None:
    one, different, other = found(1, 0, 1).contents
    assert one["labels"] != different["labels"]
    assert one == other


def test_copies_alone_are_not_moved_or_deformed() -> None:
    subject = together((0, 0))
    one, other = subject.prepared
    assert one.image.data.tobytes() == other.image.data.tobytes() == subject.template.data.tobytes()
    assert one.native_from_template.tobytes() == other.native_from_template.tobytes()
    for field in subject.fields:
        assert not np.abs(field.to_template).max() > 1e-3
    assert subject.similarities == pytest.approx((1, 1))


# Together


def test_visits_share_the_position_and_the_brightness_of_the_brain() -> None:
    subject = found(0, 1, 2).subject
    inside = subject.template.data > 0
    images = [prepared.image.data[inside] for prepared in subject.prepared]
    for image in images:
        assert np.corrcoef(image, images[0])[0, 1] > 0.93  # the noise of the visits differs
        assert np.median(image) == pytest.approx(np.median(images[0]), rel=0.02)
    assert min(subject.similarities) > 0.95
    np.testing.assert_allclose(subject.template.data[inside], np.mean(images, axis=0), rtol=1e-5)
    for prepared in subject.prepared:
        assert np.linalg.det(prepared.native_from_template) == pytest.approx(np.linalg.det(SCALING), rel=1e-6)


def test_uncertain_votes_of_a_visit_are_corrected_by_those_of_the_others() -> None:
    clean = found(0, 1, 2)
    right = clean.segmentations[0].template_labels.data
    channels, counts = clean.votes[0].channels.copy(), clean.votes[0].counts.copy()
    wrong = (right != 0) & (np.random.default_rng(0).random(right.shape) < 0.2)
    first = channels[wrong][:, 0]
    channels[wrong] = np.stack([first % 132 + 1, first, 0 * first, 0 * first], axis=1)
    counts[wrong] = (5, 3, 0, 0)
    totals = np.where(wrong, 8, clean.votes[0].totals).astype(np.uint8)
    votes = [SparseVotes(channels, counts, totals), *clean.votes[1:]]

    def corrected(weight: float) -> float:
        with patch("slant.within_subject.subject.shared_evidence", partial(shared_evidence, weight=weight)):
            labels = label_visit(clean.subject, 0, votes, model(), ONE).template_labels.data
        return float((labels[wrong] == right[wrong]).mean())

    assert corrected(0.0) < 0.1
    assert corrected(WEIGHT) > 0.85


def test_a_visit_has_the_usual_results_on_its_own_grid() -> None:
    for visit, segmentation in enumerate(found(0, 1, 2).segmentations):
        prepared = segmentation.prepared
        for volume in (segmentation.labels, segmentation.confidence, prepared.brain):
            assert volume.grid.same_as(scan(visit).grid)
        brain = aligned(visit).brain.data > 0
        assert (segmentation.labels.data[~brain] == 0).mean() > 0.97
        assert (prepared.brain.data[brain] == 1).mean() > 0.97
        assert 0 < segmentation.confidence.data.min() < segmentation.confidence.data.max() == 1
        assert segmentation.labels.ids[1:] == segmentation.template_labels.ids[1:]
        assert [t.name for t in segmentation.timings] == ["shared votes", "resample labels", "volumes"]
        assert prepared.similarity == 0.95
        template = {i: (segmentation.template_labels.data == i).sum() for i in segmentation.labels.ids[1:]}
        scale = np.linalg.det(MOTIONS[visit] @ SCALING)
        own = np.array([(segmentation.labels.data == i).sum() * 1.3**3 for i in template])
        assert own.sum() == pytest.approx(scale * sum(template.values()), rel=0.02)


def test_nearest_interpolation_takes_the_labels_of_template_space() -> None:
    shared = found(0, 1, 2)
    nearest = label_visit(shared.subject, 0, shared.votes, model(), replace(ONE, interpolation="nearest"))
    usual = shared.segmentations[0]
    assert nearest.template_labels.data.tobytes() == usual.template_labels.data.tobytes()
    assert 0 < (nearest.labels.data != usual.labels.data).mean() < 0.1
    assert nearest.confidence.data.max() <= 1


def test_the_listener_is_told_of_every_step() -> None:
    told: list[StepProgress] = []
    with quick_stages():
        subject = align_subject(["a", "b"], [scan(0)] * 2, [aligned(0)] * 2, model().inputs, told.append)
    assert list(dict.fromkeys(progress.name for progress in told)) == [timing.name for timing in subject.timings]
    assert [timing.name for timing in subject.timings] == ["rigid alignment", "bias", "intensity", "deform"]
    told.clear()
    visit_votes(subject, 0, model(), ONE, told.append)
    assert {progress.name for progress in told} == {"networks and vote"}


@pytest.mark.parametrize(("factor", "text"), [(1.03, "6.1 % larger"), (0.97, "5.9 % smaller")])
def test_a_head_that_changes_its_size_is_a_warning_of_that_visit(factor: float, text: str) -> None:
    wrong = aligned(1).native_from_template @ np.diag([factor, factor, factor, 1])
    visits = [aligned(0), replace(aligned(1), native_from_template=wrong), aligned(2)]
    with quick_stages():
        subject = align_subject("abc", [scan(i) for i in range(3)], visits, model().inputs)
    first, (warning,), last = (prepared.warnings for prepared in subject.prepared)
    assert f"the head is {text} in volume than at all visits on average, expected at most 4 %; " in warning
    assert "check the voxel size in its header" in warning
    assert first == last == ()


# The groupwise template


def test_every_visit_is_deformed_through_the_template_of_the_subject() -> None:
    deformations = [prepared.deformation for prepared in found(0, 1, deformable=True).subject.prepared]
    assert len({deformation.similarity for deformation in deformations}) == 1
    assert len({deformation.displacement.tobytes() for deformation in deformations}) == 2
    assert all(prepared.deformation is None for prepared in found(0, 1, 2).subject.prepared)


def test_a_failed_deformation_is_a_warning_of_every_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = tuple(n // 2 for n in GRID.shape)
    monkeypatch.setattr(groupwise, "deform", lambda *_: Deformation(np.zeros((3, *shape), np.float16), 0.41, 0.52))
    for prepared in together((0, 1), deformable=True).prepared:
        (warning,) = prepared.warnings
        assert "could not be deformed to the groupwise template: similarity 0.41" in warning


def test_visits_prepared_for_another_model_are_refused() -> None:
    with pytest.raises(ModelError, match="registered to no groupwise template, expected the groupwise template"):
        visit_votes(found(0, 1, 2).subject, 0, model(groupwise=True), ONE)


# Between processes


def test_a_subject_can_be_pickled() -> None:
    before = found(0, 1, 2)
    subject, votes = pickle.loads(pickle.dumps((before.subject, before.votes)))  # noqa: S301
    assert [field.name for field in fields(subject)] == [field.name for field in fields(before.subject)]
    assert content(subject, 1, label_visit(subject, 1, votes, model(), ONE)) == before.contents[1]
    unpickled = pickle.loads(pickle.dumps(aligned(0)))  # noqa: S301
    assert unpickled.native_from_template.tobytes() == aligned(0).native_from_template.tobytes()


# Other subjects


def other_scans() -> dict[str, Volume]:
    """Scans that do not show the subject."""
    own = scan(1)
    noise = np.where(own.data > 0, np.random.default_rng(0).uniform(20, 200, own.data.shape), 0)
    flipped = brightness(centers(own.grid, np.linalg.inv(MOTIONS[1] @ SCALING)) * [1, 1, -1])
    return {
        "another subject": scan(1, 7),
        "noise": Volume(noise, own.grid),
        "upside down": Volume(flipped, own.grid),
        "other contrast": Volume(np.where(own.data > 0, 220 - own.data, 0), own.grid),
    }


@pytest.mark.parametrize("name", other_scans())
def test_a_scan_of_something_else_is_refused_by_name(name: str) -> None:
    scans, inputs = [scan(0), other_scans()[name], scan(2)], model().inputs
    with quick_stages(), pytest.raises(InputError) as error:
        align_subject(["jan", "jun", "dec"], scans, [aligned(i) for i in range(3)], inputs)
    message = str(error.value)
    assert message.startswith("jun does not fit the mean of dec, jan: similarity ")
    assert "expected at least 0.80; expected T1-weighted scans of the whole brain of one subject; leave" in message
    assert float(message.split("similarity ")[1].split(",", maxsplit=1)[0]) < MIN_SIMILARITY


def test_two_visits_that_do_not_fit_are_both_named() -> None:
    with quick_stages(), pytest.raises(InputError, match=r"(a does not fit b|b does not fit a): similarity -?0\.\d\d,"):
        align_subject(["a", "b"], [scan(0), scan(1, 7)], [aligned(0), aligned(1)], model().inputs)
