"""Intervals and verdicts against known answers: planted differences, other implementations, formulas."""

import numpy as np
import pytest
from scipy import stats

from lightning_seg.metrics.scores import class_dice, miou_and_iou
from lightning_seg.statistics.blocks import image_blocks
from lightning_seg.statistics.paired import (
    Estimate,
    RunScores,
    Sample,
    score_interval,
    seed_variances,
    seeds_needed,
    simultaneous,
)
from tests.runs.made_runs import simulate
from tests.statistics.simulate_verdicts import miou, rates, simulated


@pytest.mark.parametrize("df", [1, 1.5, 2, 4, 12, 100, 2000])
def test_intervals_and_p_values_are_those_of_students_t(df):
    t = np.array([0, 0.3, 1, 2.5, 12])
    one, none = np.ones(5), np.zeros(5)
    by_images = Estimate(-t, one, none, np.full(5, df), one)
    by_seeds = Estimate(t, none, one, one, np.full(5, df))
    for estimate in (by_images, by_seeds):
        np.testing.assert_allclose(estimate.p(), np.maximum(2 * stats.t.sf(t, df), 1e-12), rtol=1e-5)
        for level in (0.5, 0.95, 0.999):
            np.testing.assert_allclose(estimate.half_width(level), stats.t.ppf((1 + level) / 2, df))


def test_an_interval_ends_at_zero_where_p_is_its_level():
    estimate = Estimate(np.array([1.7]), np.array([0.3]), np.array([0.2]), np.array([20.0]), np.array([2.0]))
    assert estimate.half_width(1 - estimate.p())[0] == pytest.approx(1.7)
    # Cochran's formula: each part has a quantile of its own
    parts = 0.3 * stats.t.ppf(0.975, 20) ** 2 + 0.2 * stats.t.ppf(0.975, 2) ** 2
    assert estimate.half_width()[0] == pytest.approx(parts**0.5)


@pytest.mark.parametrize("groups", [3, 10, 24])
def test_many_comparisons_are_corrected_and_hardly_wider_than_by_tukey(groups):
    value, count = np.linspace(0, 4, groups), groups * (groups - 1) // 2
    many, (a, b) = np.full(count, 1e9), np.triu_indices(groups, 1)
    found = simultaneous(Estimate(value[b] - value[a], 0 * many + 2, 0 * many, many, many))
    half = found.high - found.value
    np.testing.assert_allclose(half, np.sqrt(2) * stats.norm.isf(0.025 / count), rtol=1e-5)
    assert 1 <= half[0] / stats.studentized_range.ppf(0.95, groups, np.inf) < 1.04
    np.testing.assert_allclose(
        found.p, np.minimum(2 * count * stats.norm.sf((value[b] - value[a]) / np.sqrt(2)), 1), rtol=1e-4
    )
    np.testing.assert_array_equal(found.certain, (found.low > 0) | (found.high < 0))


def linearised_error(a, b):
    """The standard error of a difference of mIoU by Taylor's expansion instead of leaving images out."""

    def influence(counts):
        hit, union = (
            counts[..., 0].astype(float),
            (counts[..., 1] + counts[..., 2] - counts[..., 0]).astype(float),
        )
        iou = hit.sum(0) / union.sum(0)
        return ((hit - iou * union) / union.sum(0)).mean(1)

    n = len(a)
    return np.sqrt(n / (n - 1) * ((influence(a) - influence(b)) ** 2).sum())


def test_the_jackknife_agrees_with_the_delta_method():
    rng = np.random.default_rng(1)
    easy = rng.normal(0, 0.1, (300, 4))
    a, b = (simulate(rng, images=300, classes=4, noise=noise, easy=easy) for noise in (0.05, 0.08))
    sample = Sample([[a], [b]])
    assert sample.difference(0, 1).error[0] == pytest.approx(linearised_error(a, b), rel=0.02)
    # What makes an image easy for both cancels out: each alone varies much more.
    assert sample.difference(0, 1).error[0] < 0.8 * sample.group(0).error[0]


def test_the_jackknife_by_hand():
    runs = [simulate(np.random.default_rng(i), images=5) for i in range(2)]
    left_out = [[class_dice(np.delete(counts, k, axis=0).sum(0)).mean() for k in range(5)] for counts in runs]
    difference = np.subtract(*left_out)
    sample = Sample([[runs[0]], [runs[1]]], score=lambda counts: class_dice(counts).mean(-1, keepdims=True))
    expected = 4 / 5 * ((difference - difference.mean()) ** 2).sum()
    assert sample.difference(0, 1).images[0] == pytest.approx(expected)


def test_few_large_objects_leave_few_degrees_of_freedom():
    rng = np.random.default_rng(0)
    true = np.full((50, 3), 1000.0)
    even = Sample([[simulate(rng, images=50, true=true)], [simulate(rng, images=50, true=true)]])
    true[:3] *= 100
    ruled = Sample([[simulate(rng, images=50, true=true)], [simulate(rng, images=50, true=true)]])
    assert ruled.difference(0, 1).df_images[0] < 12 < 25 < even.difference(0, 1).df_images[0] <= 49


def seeds_only(*shifts):
    """Runs that differ by ``shifts`` alike on all images, so that the choice of images adds nothing."""
    true = np.full((50, 2), 1000.0)
    return [simulate(np.random.default_rng(0), shift, noise=0, classes=2, true=true) for shift in shifts]


def test_seeds_alone_give_students_interval():
    runs = seeds_only(0.0, 0.02, 0.01, 0.05)
    values = [miou_and_iou(counts.sum(0))[0] for counts in runs]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    for own in (Sample([runs]).group(0)[0], RunScores([values]).group(0)[0]):
        assert own.value - own.half_width() == pytest.approx(low)
        assert own.value + own.half_width() == pytest.approx(high)


def test_equal_variances_are_pooled_and_a_single_run_is_given_the_average():
    between = np.array([1.0, 1.2, np.nan, 0.9])
    variances, df = seed_variances(between, np.zeros(4), np.array([3, 5, 1, 4]))
    pooled = (2 * 1 + 4 * 1.2 + 3 * 0.9) / 9
    np.testing.assert_allclose(variances, pooled)
    np.testing.assert_allclose(df, 9)


def test_variances_that_differ_are_moved_towards_each_other_as_smyth_does():
    """Recovers the distribution that the variances were drawn from, and each better than by its own runs."""
    rng = np.random.default_rng(0)
    true = 3.0 * 6 / rng.chisquare(6, 400)  # 6 degrees of freedom around 3
    between = true * rng.chisquare(2, 400) / 2
    variances, df = seed_variances(between, np.zeros(400), np.full(400, 3))
    np.testing.assert_allclose(df, 6 + 2, rtol=0.35)
    assert np.mean(np.log(variances / true) ** 2) < 0.3 * np.mean(np.log(between / true) ** 2)


def test_two_runs_that_agree_by_chance_do_not_make_all_groups_look_unlike():
    """By the moments of logarithms they did: intervals of groups of one run were as wide as the scale."""
    between = np.array([1e-6, 0.6, 0.8, 1.0, 1.3, 0.4, np.nan])
    variances, df = seed_variances(between, np.zeros(7), np.array([2, 2, 2, 2, 3, 3, 1]))
    assert df[-1] >= 6 and 0.4 < variances[-1] < 1


def test_groups_that_truly_vary_differently_keep_their_own_variance():
    between = np.array([0.01, 0.012, 0.011, 0.009, 1.0, 1.2, 1.1, 0.9])
    variances, df = seed_variances(between, np.zeros(8), np.full(8, 20))
    np.testing.assert_allclose(variances, between, rtol=0.2)
    assert np.all(df < 30)


def test_a_single_pair_of_runs_does_not_widen_all_intervals():
    rng = np.random.default_rng(0)
    groups = [[simulate(rng, shift)] for shift in (0, 0.1, 0.2)]
    alone = Sample(groups)
    pair = Sample([[*groups[0], simulate(rng)], *groups[1:]])
    assert not pair.seeds_known
    one, other = (s.compare(np.array([1, 2]), np.array([0, 0])) for s in (alone, pair))
    assert np.all(other.high - other.low < 1.5 * (one.high - one.low))
    assert Sample([[*groups[0], simulate(rng), simulate(rng)], *groups[1:]]).seeds_known


def test_what_images_explain_is_taken_from_the_variance_of_seeds_the_less_the_fewer_runs_there_are():
    for groups, share in ((1, 2 / 6), (10, 20 / 24)):
        variances, _ = seed_variances(np.full(groups, 4.0), np.full(groups, 1.0), np.full(groups, 3))
        np.testing.assert_allclose(variances, 4 - share)


def test_identical_runs_do_not_differ():
    counts = simulate(np.random.default_rng(0))
    difference = Sample([[counts], [counts]]).difference(0, 1)
    assert np.all(difference.value == 0) and np.all(difference.p() == 1)
    compared = Sample([[counts]] * 3).compare(np.array([1, 2, 2]), np.array([0, 0, 1]))
    assert np.all(compared.p == 1)


def test_one_image_gives_no_interval():
    counts = [simulate(np.random.default_rng(i), images=1) for i in range(2)]
    difference = Sample([[counts[0]], [counts[1]]]).difference(0, 1)[0]
    assert np.isnan(difference.half_width()) and difference.p() == 1


def test_absent_and_rare_classes():
    rng = np.random.default_rng(0)
    runs = [simulate(rng, shift, images=40, classes=4) for shift in (0, 0.1)]
    for counts in runs:
        counts[:, 3] = 0  # nowhere
        counts[1:, 2] = 0  # in one image, which says nothing about others
    difference = Sample([[runs[1]], [runs[0]]]).difference(0, 1)
    assert np.isnan(difference.value[4])
    assert np.isfinite(difference.value[:4]).all() and np.isfinite(difference.error[:3]).all()
    assert np.isnan(difference.error[3]) and difference.p()[3] == 1
    expected = miou_and_iou(runs[1].sum(0))[0] - miou_and_iou(runs[0].sum(0))[0]
    assert difference.value[0] == pytest.approx(expected)


def test_a_single_run_borrows_the_variance_of_seeds():
    rng = np.random.default_rng(0)
    many = [simulate(rng, seed_noise=0.05) for _ in range(6)]
    alone, with_many = Sample([[many[0]], [many[1]]]), Sample([[many[0]], many[1:]])
    assert not alone.seeds_known and with_many.seeds_known
    assert with_many.group(0).error[0] > 2 * alone.group(0).error[0]
    assert with_many.group(0).error[0] == pytest.approx(with_many.std[1, 0], rel=0.2)
    assert with_many.group(0).df_seeds[0] == 4


def test_scores_of_runs_alone_are_known_by_seeds_alone():
    sample = RunScores([[30.0, 31, 32], [50.0]], bounded=False)
    difference = sample.compare(np.array([1]), np.array([0]))
    half = stats.t.ppf(0.975, 2) * np.sqrt(1 + 1 / 3)
    assert difference.low[0] == pytest.approx(19 - half) and difference.high[0] == pytest.approx(19 + half)
    assert np.isnan(RunScores([[30.0], [50.0]]).compare(np.array([1]), np.array([0])).low[0])


def test_blocks_keep_neighbors_together():
    """Twenty scenes of ten equal frames each are twenty images, not two hundred."""
    rng = np.random.default_rng(0)
    scenes = [simulate(rng, images=20) for _ in range(2)]
    frames = [counts.repeat(10, axis=0) for counts in scenes]
    wanted = Sample([[c] for c in scenes]).difference(0, 1).half_width()[0]
    blocks = Sample([[c] for c in frames], np.arange(200) // 10)
    assert blocks.images == "200 images in 20 blocks of neighbors"
    assert blocks.difference(0, 1).half_width()[0] == pytest.approx(wanted)
    assert Sample([[c] for c in frames]).difference(0, 1).half_width()[0] < wanted / 2


def test_sequences_are_read_from_names():
    camvid = [f"0001TP_{i:06d}" for i in range(62)] + [f"Seq05VD_f{i:05d}" for i in range(171)]
    blocks = image_blocks(camvid, sequence=True)
    assert set(blocks[:62]).isdisjoint(blocks[62:]) and (np.diff(blocks) >= 0).all()
    assert 9 <= len(set(blocks)) <= 11 and np.bincount(blocks).min() >= 20
    videos = [f"video{i // 7}/frame{i % 7:03d}.png" for i in range(84)]
    np.testing.assert_array_equal(image_blocks(videos, sequence=True), np.arange(84) // 7)
    assert image_blocks(camvid, sequence=False) is None and image_blocks(camvid, True, block=1) is None
    np.testing.assert_array_equal(image_blocks(camvid, False, block=50), np.arange(233) // 50)
    assert len(set(image_blocks(["slice_1", "slice_2"], sequence=True))) == 1  # too few to say anything


def test_images_of_a_group_are_one_block_wherever_they_are_in_the_list():
    patients = np.array([4, 1, 4, 7, 1, 9])
    blocks = image_blocks([f"scan_{i}" for i in range(6)], sequence=False, groups=patients)
    np.testing.assert_array_equal(blocks[:, None] == blocks, patients[:, None] == patients)
    many = np.arange(60) % 12  # as many as sequences must be to be blocks
    np.testing.assert_array_equal(image_blocks(["x"] * 60, sequence=True, groups=many), many)
    few = image_blocks([f"scan_{i}" for i in range(60)], sequence=True, groups=np.arange(60) // 30)
    assert len(set(few)) == 10  # long sequences are cut, as without groups
    assert image_blocks(["x"] * 6, sequence=False, block=1, groups=patients) is None


def test_intervals_of_scores_stay_between_0_and_1():
    value, error = np.array([0.0, 0.004, 0.5, 0.97, 1.0]), np.array([0.0, 0.01, 0.02, 0.3, 0.0])
    low, high = score_interval(Estimate(value, error**2, 0 * value, np.full(5, 1e9), np.full(5, 1e9)))
    assert (low >= 0).all() and (high <= 1).all() and (low <= value).all() and (value <= high).all()
    assert low[2] == pytest.approx(0.5 - 1.96 * 0.02, abs=1e-3)
    compared = Sample([seeds_only(0, 0.3), seeds_only(-0.3, 0.1)]).compare(np.array([0]), np.array([1]))
    assert -1 <= compared.low[0] < compared.high[0] <= 1


def test_the_seeds_that_are_needed_find_a_difference_in_four_of_five_studies():
    rng = np.random.default_rng(0)
    needed = seeds_needed(0.02, 0.0, 0.01**2)
    shape = (4000, needed)
    p = stats.ttest_ind(rng.normal(0.02, 0.01, shape), rng.normal(0, 0.01, shape), axis=1).pvalue
    assert 0.75 <= (p < 0.05).mean() <= 0.93
    assert seeds_needed(0.02, 0.01**2, 0.01**2) is None  # the images do not allow it
    assert seeds_needed(0.2, 0, 0.001**2) == 2


@pytest.mark.parametrize(("seeds", "seed_noise"), [(3, 0.01), (2, 0.02), (1, 0.0)])
def test_coverage_and_false_alarms(seeds, seed_noise):
    """A smaller version of `tests.statistics.simulate_verdicts`, whose rates stand in docs/comparing.md.

    With 95 % in truth, less than 88 % or more than 12 % false alarms of 150 come less than once in a thousand times.
    """
    rng = np.random.default_rng(0)
    covered = alarms = 0
    n = 150
    for _ in range(n):
        planted = Sample(simulated(rng, (0, 0.03), seeds, seed_noise=seed_noise), score=miou).difference(
            1, 0
        )[0]
        covered += abs(planted.value - 0.03) <= planted.half_width()
        equal = Sample(simulated(rng, (0, 0), seeds, seed_noise=seed_noise), score=miou).difference(1, 0)[0]
        alarms += equal.p() < 0.05
    assert 0.88 <= covered / n
    assert alarms / n <= 0.12


@pytest.mark.parametrize(
    ("seeds", "images", "groups", "repetitions"),
    [(1, 40, 2, 20), ((1, 3), 100, 2, 150), (2, 20, 2, 150), (3, 40, 6, 60)],
)
def test_equal_groups_are_seldom_called_different(seeds, images, groups, repetitions):
    """At most 6 % of tables in `tests.statistics.simulate_verdicts`; here what so few repetitions can tell."""
    wrong, _ = rates(seeds, images, groups, repetitions, seed_noise=0.0075)
    assert wrong <= (0 if seeds == 1 else 0.05 + 3 * (0.05 / repetitions) ** 0.5)


def test_a_true_difference_is_found():
    _, found = rates(5, 100, 2, 40, gap=0.02, seed_noise=0.003)
    assert found >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "seed_noise", "frames"), [(3, 0.003, 1), (3, 0.01, 1), (1, 0.0, 1), (3, 0.003, 10)]
)
def test_coverage_of_500_simulations(seeds, seed_noise, frames, capsys):
    """Slow because each of 500 simulations of a whole CamVid, 101 images and 11 classes, is analysed twice."""
    rng = np.random.default_rng(0)
    kind = {"seeds": seeds, "images": 101, "seed_noise": seed_noise, "classes": 11, "frames": frames}
    blocks = image_blocks([f"{i:03d}" for i in range(101)], sequence=frames > 1)
    covered = alarms = 0
    for _ in range(500):
        planted, equal = (
            Sample(simulated(rng, (0, gap), **kind), blocks, miou).difference(1, 0)[0] for gap in (0.03, 0)
        )
        covered += abs(planted.value - 0.03) <= planted.half_width()
        alarms += equal.p() < 0.05
    with capsys.disabled():
        print(f"\n{kind}: {covered / 5:.1f} % covered, {alarms / 5:.1f} % false alarms")
    assert 0.92 <= covered / 500
    assert alarms / 500 <= 0.07  # 5 %, give or take what 500 can tell


def test_frames_that_count_as_independent_images_are_found_out():
    """Without blocks the interval for frames of a video would be far too narrow: that is why there are blocks."""
    rng = np.random.default_rng(0)
    alarms = {False: 0, True: 0}
    for _ in range(60):
        groups = simulated(rng, (0, 0), images=101, seed_noise=0.003, frames=10)
        for sequence in alarms:
            blocks = image_blocks([f"video_{i}" for i in range(101)], sequence)
            alarms[sequence] += Sample(groups, blocks, miou).difference(1, 0)[0].p() < 0.05
    assert alarms[True] <= 8 and alarms[False] >= 12
