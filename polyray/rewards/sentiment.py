"""Sentiment of a text, from a short English word list: a stated, weak measure, not a model.

    count positive and negative words; one of the three words before it that negates turns a word around
    sentiment = 0.5 + 0.5 (positive - negative) / (positive + negative + 1)

0.5 for a text without such words, towards 1 and 0 as one kind prevails; the 1 keeps a single word from
deciding everything. It knows no irony, no emoji and no other language. Called by heuristic.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\S+")
_NEGATION_REACH = 3
_NEGATIONS = frozenset(
    _WORD.findall(
        "no not never none nobody nothing neither nor without hardly barely isn't aren't wasn't weren't don't "
        "doesn't didn't can't cannot couldn't won't wouldn't shouldn't ain't"
    )
)
_POSITIVE = frozenset(
    _WORD.findall(
        "good great excellent wonderful amazing awesome fantastic brilliant superb perfect best better nice "
        "fine lovely beautiful pretty love loved loves loving like liked likes enjoy enjoyed enjoys enjoyable "
        "happy happily glad pleased pleasant delighted delightful joy joyful fun funny hilarious laugh "
        "laughed smile smiled thank thanks thankful grateful appreciate appreciated welcome kind kindly "
        "friendly helpful useful clear clever smart wise interesting fascinating inspiring impressive elegant "
        "charming sweet warm calm safe fair honest generous brave strong win wins won winner success "
        "successful succeed hope hopeful proud agree right true favourite favorite recommend recommended "
        "congratulations cheers sure easy fresh gorgeous magnificent marvellous remarkable"
    )
)
_NEGATIVE = frozenset(
    _WORD.findall(
        "bad worse worst awful terrible horrible dreadful poor poorly hate hated hates hateful dislike "
        "disliked annoy annoyed annoying angry anger mad furious sad sadly unhappy upset cry cried miserable "
        "depressed depressing lonely afraid scared fear fearful worried worry worries anxious boring bored "
        "dull stupid silly foolish idiotic ugly nasty mean cruel rude evil wrong false lie lies lied liar "
        "cheat cheated useless pointless worthless waste wasted broken fail fails failed failing failure lose "
        "loses lost loser problem problems trouble hurt hurts pain painful sick ill dead death die died kill "
        "killed danger dangerous disaster disappointing disappointed disappointment disgusting gross weak "
        "hard difficult confusing confused ridiculous absurd unfair sorry regret shame ashamed guilty blame "
        "complain complained reject rejected refuse refused offensive"
    )
)


def sentiment(words: Sequence[str]) -> float:
    """In (0, 1); 0.5 is neutral. `words` in lower case, with apostrophes inside (text_quality.words_of)."""
    positive = negative = 0
    for at, word in enumerate(words):
        if word not in _POSITIVE and word not in _NEGATIVE:
            continue
        negated = any(before in _NEGATIONS for before in words[max(0, at - _NEGATION_REACH) : at])
        if (word in _POSITIVE) != negated:
            positive += 1
        else:
            negative += 1
    return 0.5 + 0.5 * (positive - negative) / (positive + negative + 1)
