"""Words that hold sentences together: running text is full of them, and lists of keywords, tables and code are not."""

from __future__ import annotations

_ENGLISH = """
a an the this that these those such each every either neither both all any some no none few many much more most
less least other another same own several
i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we us our ours
ourselves they them their theirs themselves one who whom whose which what there here
and or but nor so yet if then than because since while until unless although though as when where why how whether
of in on at by to from for with without within into onto upon over under above below between among through during
before after about against across along around behind beside beyond near off out up down toward towards per via
am is are was were be been being do does did doing done have has had having can could may might must shall should
will would ought
not only also too very just even still again ever never always often now already rather quite however therefore
thus hence
don't doesn't didn't isn't aren't wasn't weren't can't couldn't won't wouldn't shouldn't haven't hasn't hadn't
i'm i've i'll i'd you're you've you'll he's she's it's we're we've we'll they're they've they'll that's there's
what's let's
"""
ENGLISH = frozenset(_ENGLISH.split())

CHINESE = frozenset(
    "的地得了着过吗呢吧啊呀嘛么们"  # particles
    "我你您他她它咱这那此该哪谁什怎何某每各另"  # pronouns
    "是有在会能可要应须让使被把将给对向往从自到由于以为按据至当因所与和跟同及或而且并但则即若如虽然却既尽管除非"
    "不没无未别也都就还又再才只很更最太已曾正刚仍便越较极"  # adverbs
    "之乎者矣焉哉耳兮其乃吾汝尔彼斯夫盖岂孰于於為與無這們個說對後來會還沒麼嗎從將"  # classical and traditional
)
"""Characters, for no words are cut out of Chinese: its function words are written with few (我们, 因为, 已经)."""
