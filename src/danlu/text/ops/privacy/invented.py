"""What pseudonyms are made of: words in the right form that no finder takes for a person or a place."""

from __future__ import annotations

from danlu.text.lexicon import words

ZH_GIVEN = {
    1: tuple("珩岫蘅翀旻潆祎骊砚衍谌峣洵珞笙荻葭蕤"),
    2: words("""
        望舒 听澜 知行 怀瑾 疏影 若谷 云舟 星野 予墨 清和 扶摇 青崖 未央 书白 砚秋 见山 拂晓 临风 鹿鸣 采薇 南乔
        初尧 观澜 明河 既白 栖迟 流萤 霁月 松间 竹溪 长歌 远岫
    """),
}
"""Given names out of poems, by their length: a person who has one is as well hidden as behind any other."""

ZH_FOREIGN = words(
    "罗文 奥尔德 林登 艾什沃 索恩 费尔布 马洛比 惠特里 霍桑德 卡斯温 布莱尼 德文特 埃弗登 加里克 哈洛韦 莱瑟比"
)

EN_FIRST = words("""
    Rowan Alder Linden Wren Briar Sorrel Ellery Marlowe Auberon Isolde Peregrine Tamsin Corin Elowen Lysander
    Ottoline Fenwick Sidony Thane Verity Merrin Cosmo Ambrose Clover
""")
EN_LAST = words("""
    Ashdown Thornwell Fairbrook Larkmeadow Marrowby Whitlowe Hawksmere Castlewen Brindleton Dunmarrow Everdene
    Garrowick Hollowby Kestrelson Longmarch Millhaven Northwold Oakhanger Penhallow Quillfeather Ravensby
    Silverthwaite Underbough Wintermoor
""")

ZH_CITIES = words("青崖 临渊 星野 白鹿洲 云岚 望海潮")
ZH_DISTRICTS = words("听雨 知行 疏影 观澜 见山 扶摇")
ZH_STREETS = words("梧荫 竹溪 采薇 鹿鸣 流萤 松间 霁月 拂晓")
EN_STREETS = words("Thistledown Larkmeadow Foxglove Marrowby Hollowby Quillfeather Brindleton Underbough")
EN_TOWNS = words("Fairbrook Millhaven Hawksmere Wintermoor Castlewen Northwold")
