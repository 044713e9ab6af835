"""Numbers about samples: pure functions of arrays and texts; no I/O, no clock, no global random state.

One value per prompt:
    pass_at_k.py       pass@k, best@k, distinct correct classes@k
    success_distribution.py  how chances of success spread over prompts, and the pass@k that follows
    selection.py       USQ@k, its random and oracle bounds, regret, selection efficiency
    marginal_relevance.py  a good and diverse few out of many
    diversity.py       cosine distance, Vendi score, entropy       text_diversity.py  distinct-n, EAD, self-BLEU, ...
    quality.py         ROUGE, correlation with engagement
Of pairs of completions:
    pairwise.py        the better of two, and how often a score is right about it
    calibration.py     is it as sure as it says                    correlation.py     within groups, with intervals
Over prompts:
    efficiency.py      DER and its null, collapse point            pareto.py          models that are not dominated
    bootstrap.py       intervals (percentile, BCa, over seeds)     clusters.py        the unit of statistics
    significance.py    sign flips, Wilcoxon, t, Mann-Whitney       effect_sizes.py    d, d_z, g, Cliff's delta
    non_inferiority.py TOST with a margin                          multiplicity.py    Holm
    agreement.py       kappa, alpha                                comparison.py      all of it for two or more models
                                                                   compared.py        its results
Underneath: arrays.py (argument checks), combinatorics.py (exact binomial ratios), tokens.py (tokenisation).

Suffix _G = samples of one prompt, _P = prompts, _SP = seeds x prompts. polyray.algorithms builds on this package,
never the other way round.
"""

from __future__ import annotations

from polyray.metrics.agreement import cohens_kappa, krippendorff_alpha
from polyray.metrics.bootstrap import (
    DifferenceInterval,
    MeanInterval,
    bootstrap_mean,
    hierarchical_intervals,
    paired_bootstrap,
    paired_hierarchical_bootstrap,
)
from polyray.metrics.calibration import Calibration, ReliabilityBin, best_temperature, pair_calibration
from polyray.metrics.compared import Comparison, EffectSizes, PairComparison
from polyray.metrics.comparison import compare_metrics, compare_models
from polyray.metrics.correlation import (
    GroupCorrelations,
    bootstrap_correlation,
    group_correlations,
    without_group_means,
)
from polyray.metrics.diversity import mean_pairwise_cosine_distance, output_entropy, vendi_score
from polyray.metrics.effect_sizes import cliffs_delta, cohens_d, cohens_d_z
from polyray.metrics.efficiency import (
    collapse_point,
    diversity_efficiency_null,
    diversity_efficiency_ratio,
)
from polyray.metrics.marginal_relevance import maximal_marginal_relevance
from polyray.metrics.multiplicity import holm
from polyray.metrics.non_inferiority import NonInferiority, tost_non_inferiority
from polyray.metrics.pairwise import Pairs, pair_hits, within_group_pairs
from polyray.metrics.pareto import hypervolume, pareto_front
from polyray.metrics.pass_at_k import best_at_k, distinct_correct_at_k, pass_at_k
from polyray.metrics.quality import EngagementCorrelation, Rouge, engagement_correlation, rouge
from polyray.metrics.selection import (
    oracle_at_k,
    random_at_k,
    selection_efficiency,
    usq_at_k,
    usq_at_k_sampled,
)
from polyray.metrics.significance import (
    SignificanceTest,
    mann_whitney,
    sign_flip_permutation_test,
)
from polyray.metrics.success_distribution import (
    GoodnessOfFit,
    SuccessDistribution,
    fit_success_distribution,
    goodness_of_fit,
    overtaking_k,
)
from polyray.metrics.text_diversity import (
    VocabularyRichness,
    compression_ratio,
    distinct_n,
    expectation_adjusted_distinct,
    self_bleu,
    vocabulary_richness,
)

__all__ = [
    "Calibration",
    "Comparison",
    "DifferenceInterval",
    "EffectSizes",
    "EngagementCorrelation",
    "GoodnessOfFit",
    "GroupCorrelations",
    "MeanInterval",
    "NonInferiority",
    "PairComparison",
    "Pairs",
    "ReliabilityBin",
    "Rouge",
    "SignificanceTest",
    "SuccessDistribution",
    "VocabularyRichness",
    "best_at_k",
    "best_temperature",
    "bootstrap_correlation",
    "bootstrap_mean",
    "cliffs_delta",
    "cohens_d",
    "cohens_d_z",
    "cohens_kappa",
    "collapse_point",
    "compare_metrics",
    "compare_models",
    "compression_ratio",
    "distinct_correct_at_k",
    "distinct_n",
    "diversity_efficiency_null",
    "diversity_efficiency_ratio",
    "engagement_correlation",
    "expectation_adjusted_distinct",
    "fit_success_distribution",
    "goodness_of_fit",
    "group_correlations",
    "hierarchical_intervals",
    "holm",
    "hypervolume",
    "krippendorff_alpha",
    "mann_whitney",
    "maximal_marginal_relevance",
    "mean_pairwise_cosine_distance",
    "oracle_at_k",
    "output_entropy",
    "overtaking_k",
    "pair_calibration",
    "pair_hits",
    "paired_bootstrap",
    "paired_hierarchical_bootstrap",
    "pareto_front",
    "pass_at_k",
    "random_at_k",
    "rouge",
    "selection_efficiency",
    "self_bleu",
    "sign_flip_permutation_test",
    "tost_non_inferiority",
    "usq_at_k",
    "usq_at_k_sampled",
    "vendi_score",
    "vocabulary_richness",
    "within_group_pairs",
    "without_group_means",
]
