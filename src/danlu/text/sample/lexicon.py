"""The world's words, each in Chinese and English."""

from __future__ import annotations

from typing import Literal, NamedTuple

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")


class Word(NamedTuple):
    """One thing's name in both languages."""

    zh: str
    en: str

    def in_language(self, language: Language) -> str:
        return self.zh if language == "zh" else self.en


def _words(text: str) -> tuple[Word, ...]:
    return tuple(Word(*(part.strip() for part in entry.split("|"))) for entry in text.strip().split("\n"))


def _given_names(text: str) -> tuple[Word, ...]:
    return tuple(Word(*entry.split("|")) for entry in text.split())


SURNAMES = _given_names(
    "林|Lin 王|Wang 李|Li 张|Zhang 陈|Chen 赵|Zhao 周|Zhou 吴|Wu 孙|Sun 马|Ma "
    "胡|Hu 何|He 高|Gao 罗|Luo 郑|Zheng 梁|Liang 谢|Xie 宋|Song 唐|Tang 许|Xu "
    "韩|Han 冯|Feng 邓|Deng 曹|Cao 彭|Peng 曾|Zeng 萧|Xiao 田|Tian 董|Dong 袁|Yuan 潘|Pan 于|Yu 蒋|Jiang 蔡|Cai "
    "杜|Du 叶|Ye 程|Cheng 苏|Su 魏|Wei 丁|Ding 任|Ren 沈|Shen 姚|Yao 卢|Lu 崔|Cui 钟|Zhong 谭|Tan 范|Fan"
)
WOMEN = _given_names(
    "晓雨|Xiaoyu 美玲|Meiling 秀英|Xiuying 若兰|Ruolan 静怡|Jingyi 春梅|Chunmei 雪琴|Xueqin 佳慧|Jiahui "
    "丽娜|Lina 淑芬|Shufen 诗涵|Shihan 晨曦|Chenxi 婉清|Wanqing 红霞|Hongxia 玉珍|Yuzhen 巧云|Qiaoyun "
    "梦瑶|Mengyao 子衿|Zijin 明珠|Mingzhu 彩凤|Caifeng 安琪|Anqi 书岚|Shulan 碧荷|Bihe 月华|Yuehua"
)
MEN = _given_names(
    "建国|Jianguo 志强|Zhiqiang 大海|Dahai 文博|Wenbo 浩然|Haoran 俊杰|Junjie 天佑|Tianyou 立新|Lixin "
    "国栋|Guodong 永福|Yongfu 家豪|Jiahao 宏伟|Hongwei 少峰|Shaofeng 振业|Zhenye 长河|Changhe 金宝|Jinbao "
    "思远|Siyuan 云飞|Yunfei 德胜|Desheng 启明|Qiming 松涛|Songtao 致和|Zhihe 伯庸|Boyong 向东|Xiangdong"
)
PLACES = _words("""
    青石镇|Bluestone
    柳河村|Willowbrook
    云台城|Cloudmount
    白沙湾|Whitesand Bay
    竹溪村|Bamboo Creek
    枫林镇|Mapleton
    月牙岛|Crescent Island
    金谷城|Goldvale
    北桥镇|Northbridge
    松岭村|Pine Ridge
    鹿鸣镇|Deerfield
    星湖城|Starlake
    南溪镇|Southford
    石门村|Stonegate
    雁湖村|Goose Lake
    海棠镇|Begonia
    桃源村|Peach Hollow
    铁山城|Ironhill
    玉泉镇|Jade Spring
    风铃谷|Windbell Valley
""")
OBJECTS = _words("""
    星月灯|the Starmoon Lamp
    听雨琴|the Rainsong Zither
    归雁笛|the Homing Flute
    流云扇|the Flowing Fan
    寒江剑|the Cold River Sword
    千里镜|the Farsight Glass
    百草箱|the Herb Chest
    问天钟|the Skyward Clock
    长乐鼓|the Lasting Joy Drum
    清风伞|the Breeze Umbrella
    如意壶|the Wishing Kettle
    飞鱼船|the Flying Fish Boat
    望海图|the Seawatch Map
    平安锁|the Safe Home Lock
    落花镜|the Fallen Petal Mirror
    暖冬炉|the Warm Winter Stove
    观星盘|the Stargazer Dial
    远行杖|the Wayfarer Staff
    同心铃|the One Heart Bell
    画龙笔|the Dragon Brush
    无忧枕|the Carefree Pillow
    凌波鞋|the Ripple Shoes
    锦绣屏|the Brocade Screen
    子夜棋|the Midnight Chess Set
""")
JOBS = _words("""
    医生|a doctor
    老师|a teacher
    木匠|a carpenter
    渔夫|a fisher
    厨师|a cook
    邮差|a mail carrier
    裁缝|a tailor
    农夫|a farmer
    画家|a painter
    歌手|a singer
    铁匠|a blacksmith
    护士|a nurse
    司机|a driver
    工程师|an engineer
    作家|a writer
    摄影师|a photographer
""")
DISHES = _words("""
    饺子|dumplings
    面条|noodles
    豆腐|tofu
    烤鱼|grilled fish
    米粥|rice porridge
    包子|steamed buns
    番茄炒蛋|tomatoes with eggs
    绿豆糕|mung bean cakes
    汤圆|sweet rice balls
    火锅|hot pot
    炒饭|fried rice
    馄饨|wonton soup
    春卷|spring rolls
    月饼|mooncakes
    红薯|sweet potatoes
    牛肉汤|beef soup
""")
PETS = _words("""
    一只猫|a cat
    一条狗|a dog
    一只兔子|a rabbit
    一只鹦鹉|a parrot
    一条金鱼|a goldfish
    一只乌龟|a turtle
    一匹马|a horse
    一只鸭子|a duck
    一只山羊|a goat
    一只松鼠|a squirrel
    一只刺猬|a hedgehog
    一只鸽子|a pigeon
""")
HOBBIES = _words("""
    钓鱼|fishing
    下棋|playing chess
    爬山|hiking
    游泳|swimming
    跳舞|dancing
    种花|gardening
    写诗|writing poems
    跑步|running
    骑车|cycling
    看电影|watching films
    放风筝|flying kites
    拍照|taking photos
    养蜂|keeping bees
    练书法|practising calligraphy
""")
PRODUCTS = _words("""
    茶叶|tea
    丝绸|silk
    陶器|pottery
    蜂蜜|honey
    苹果|apples
    竹椅|bamboo chairs
    宣纸|rice paper
    海盐|sea salt
    剪纸|paper cuttings
    木雕|wood carvings
    葡萄|grapes
    荷花|lotus flowers
    米酒|rice wine
    灯笼|lanterns
    皮影戏|shadow plays
    草帽|straw hats
""")
SIGHTS = _words("""
    一座古塔|an old tower
    一座石桥|a stone bridge
    一座钟楼|a bell tower
    一座灯塔|a lighthouse
    一架水车|a water wheel
    一座寺庙|a temple
    一棵大榕树|a great banyan tree
    一座图书馆|a library
    一座剧院|a theatre
    一口古井|an old well
    一座花园|a garden
    一道瀑布|a waterfall
    一段城墙|a city wall
    一个山洞|a cave
""")
MONTHS = _words("""
    一月|January
    二月|February
    三月|March
    四月|April
    五月|May
    六月|June
    七月|July
    八月|August
    九月|September
    十月|October
    十一月|November
    十二月|December
""")
MATERIALS = _words("""
    黄铜|brass
    白银|silver
    橡木|oak
    竹子|bamboo
    玉石|jade
    陶土|clay
    玻璃|glass
    牛皮|leather
    贝壳|shell
    生铁|iron
    羊毛|wool
    水晶|crystal
""")
COLOURS = _words("""
    红色|red
    黄色|yellow
    蓝色|blue
    绿色|green
    紫色|purple
    白色|white
    黑色|black
    灰色|grey
    橙色|orange
    棕色|brown
    粉色|pink
    金色|golden
""")
ROOMS = _words("""
    书房|the study
    阁楼|the attic
    地窖|the cellar
    厨房|the kitchen
    卧室|the bedroom
    客厅|the living room
    仓库|the storehouse
    博物馆|the museum
    学校|the school
    茶馆|the teahouse
    祠堂|the ancestral hall
    庭院|the courtyard
""")
