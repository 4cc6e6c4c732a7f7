export const WORDS = {
  en: {
    chat: "Chat", raw: "Continue", clear: "Clear", settings: "Settings", send: "Send", stop: "Stop", other: "中文",
    hello: "What shall we talk about?", hintChat: "The model answers your messages and sees the whole conversation.",
    hintRaw: "The model goes on with your text as it stands, without a chat template.",
    askChat: "Write a message", askRaw: "Begin a text", keys: "Enter sends, Shift+Enter breaks the line",
    key: "API key", system: "System prompt", maxTokens: "Longest answer (tokens)", seed: "Seed (empty: a new one each time)",
    facts: (tokens, rate) => `${tokens} tokens, ${rate} per second`, cut: "stopped at the longest answer",
    stopped: "stopped", unreachable: "The server cannot be reached.",
  },
  zh: {
    chat: "对话", raw: "续写", clear: "清空", settings: "设置", send: "发送", stop: "停止", other: "English",
    hello: "想聊点什么？", hintChat: "模型会回答你的消息，并看到整个对话。",
    hintRaw: "模型原样接着写你的文本，不使用对话模板。",
    askChat: "输入消息", askRaw: "写个开头", keys: "回车发送，Shift+回车换行",
    key: "API 密钥", system: "系统提示词", maxTokens: "最长回答（词元数）", seed: "随机种子（留空则每次不同）",
    facts: (tokens, rate) => `${tokens} 个词元，每秒 ${rate} 个`, cut: "到达最长回答",
    stopped: "已停止", unreachable: "无法连接服务器。",
  },
};
