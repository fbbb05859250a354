import numpy as np

from ssleval.core.targets import Groups


def test_a_level_makes_junk_of_other_answers() -> None:
    groups = Groups(np.array([3, 1]), np.array([5]), np.array([2, 0]), group=4)
    assert groups.rows.tolist() == [3, 1, 5, 2, 0]
    levels = [groups.at("easy"), groups.at("medium"), groups.at("hard")]
    assert [level.right.tolist() for level in levels] == [[3, 1], [3, 1, 5], [5]]
    assert [sorted(level.junk.tolist()) for level in levels] == [[0, 2, 5], [0, 2], [0, 1, 2, 3]]
    ranked = groups.renumbered(np.array([10, 11, 12, 13, 14]))
    assert [part.tolist() for part in ranked[:3]] == [[10, 11], [12], [13, 14]]
    assert ranked.group == groups.at("hard").group == 4
