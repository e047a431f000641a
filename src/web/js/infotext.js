// Parameters that a PNG carries: finds the "parameters" text in its chunks and reads the line that
// AUTOMATIC1111 and its family write, and we as well. The file is hostile until read.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const TEXT_BYTES_MAX = 1 << 20;

const latin1 = new TextDecoder("latin1");
const utf8 = new TextDecoder("utf-8");

async function inflate(bytes) {
    const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
    const parts = [];
    let size = 0;

    for (;;) {
        const { done, value } = await reader.read();

        if (done)
            return new Blob(parts).arrayBuffer();
        size += value.length;
        if (size > TEXT_BYTES_MAX)
            throw new Error("the text is too long");
        parts.push(value);
    }
}

// tEXt: keyword 0 text. zTXt: keyword 0 method text. iTXt: keyword 0 is-compressed method language 0
// translated keyword 0 text.
async function readTextChunk(type, data) {
    const end = data.indexOf(0);
    let at = end + 1;

    if (end < 0 || latin1.decode(data.subarray(0, end)) !== "parameters")
        return null;
    if (type === "tEXt")
        return latin1.decode(data.subarray(at));
    if (type === "zTXt")
        return latin1.decode(await inflate(data.subarray(at + 1)));
    const isCompressed = data[at] === 1;
    at = data.indexOf(0, at + 2) + 1;
    at = at > 0 ? data.indexOf(0, at) + 1 : 0;
    if (at === 0)
        return null;
    return utf8.decode(isCompressed ? await inflate(data.subarray(at)) : data.subarray(at));
}

/** The infotext of a PNG file; null: it has none, or is none. */
export async function readInfotext(blob) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const view = new DataView(bytes.buffer);
    let at = SIGNATURE.length;

    if (!SIGNATURE.every((byte, i) => bytes[i] === byte))
        return null;
    while (at + 12 <= bytes.length) {
        const size = view.getUint32(at);
        const type = latin1.decode(bytes.subarray(at + 4, at + 8));

        if (size > bytes.length - at - 12)
            return null;
        if (["tEXt", "zTXt", "iTXt"].includes(type) && size <= TEXT_BYTES_MAX) {
            const text = await readTextChunk(type, bytes.subarray(at + 8, at + 8 + size)).catch(() => null);
            if (text !== null)
                return text;
        }
        at += size + 12;
    }
    return null;
}

const PAIR = /\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g;

function readPairs(line) {
    const pairs = new Map();

    for (const [, key, value] of line.matchAll(PAIR)) {
        let text = value.trim();

        if (text.startsWith('"'))
            try {
                text = String(JSON.parse(text));
            } catch {
                // Not JSON after all: taken as it is.
            }
        pairs.set(key, text);
    }
    return pairs;
}

function number(text, low, high) {
    const value = Number(text);

    return text !== undefined && text !== "" && value >= low && value <= high ? value : undefined;
}

/** The parameters that an infotext holds, with the names of the API; null: it holds none. */
export function parseInfotext(text) {
    const lines = text.trim().split("\n");
    const pairs = readPairs(lines.at(-1));
    const parameters = {};

    // As its own readers do: fewer than three pairs are part of the prompt.
    if (pairs.size < 3)
        return null;
    lines.pop();
    const negative = lines.findIndex((line) => line.startsWith("Negative prompt:"));
    const end = negative < 0 ? lines.length : negative;
    parameters.prompt = lines.slice(0, end).join("\n").trim();
    parameters.negative_prompt = lines.slice(end).join("\n").replace(/^Negative prompt:/, "").trim();
    parameters.steps = number(pairs.get("Steps"), 1, 1000);
    parameters.guidance_scale = number(pairs.get("CFG scale"), 0, 100);
    parameters.strength = number(pairs.get("Denoising strength"), 0, 1);
    if (/^\d{1,19}$/.test(pairs.get("Seed") ?? ""))
        parameters.seed = pairs.get("Seed");
    const size = /^(\d{1,5})x(\d{1,5})$/.exec(pairs.get("Size") ?? "");
    if (size)
        [parameters.width, parameters.height] = [Number(size[1]), Number(size[2])];
    return parameters;
}
