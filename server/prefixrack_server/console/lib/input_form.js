// An adapter's input as fields to fill in: from its schema and its example to fields, from filled fields to the input.
const LONG = /context|passage|paragraph|document|premise|article/;

// [{name, kind, isOptional, isLong}]
export function fieldsOf(detail) {
  const schemas = detail.input_schema.anyOf ?? [detail.input_schema];
  const objects = schemas.filter(({ type }) => type === "object");
  const takesText = schemas.some(({ type }) => type === "string");
  if (takesText) {
    const hasPair = objects.some(({ properties }) => properties.text_pair);
    const pair = { name: "text_pair", kind: "text", isOptional: true, isLong: false };
    const text = { name: "text", kind: "text", isOptional: false, isLong: !hasPair };
    const isPair = typeof detail.example === "object" && "text_pair" in detail.example;
    return hasPair && isPair ? [text, { ...pair, isOptional: false }] : [text];
  }
  const [{ properties, required = [] }] = objects;
  const fields = Object.entries(properties).map(([name, schema]) => ({
    name,
    kind: kindOf(name, schema),
    isOptional: !required.includes(name),
    isLong: LONG.test(name),
  }));
  return fields.sort((a, b) => rank(a) - rank(b));
}

// What is asked stands before what it is asked of.
const rank = ({ name, isOptional }) => (isOptional ? 2 : 0) + (name === "question" ? -1 : 0);

function kindOf(name, schema) {
  if (name === "predicate_index") return "word"; // of the tokens
  if (schema.type === "string") return "text";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.type === "array" && schema.items?.type === "string") return name === "tokens" ? "words" : "lines";
  return "json";
}

// The example as what stands in the fields.
export function textsOf(detail, fields) {
  const { example } = detail;
  if (typeof example === "string") return { [fields[0].name]: example };
  if (fields[0].name === "text" && example.tokens) return { text: joinWords(example.tokens) };
  return Object.fromEntries(fields.map(({ name, kind }) => [name, textOf(kind, example[name])]));
}

function textOf(kind, value) {
  if (value === undefined) return "";
  if (kind === "words") return value.join(" ");
  if (kind === "lines") return value.join("\n");
  return kind === "json" ? JSON.stringify(value, null, 1) : String(value);
}

const joinWords = (words) => words.join(" ").replace(/ ([.,;:!?])/g, "$1");

// Raises SyntaxError for a field of JSON that cannot be read.
export function inputOf(fields, texts) {
  const value = {};
  for (const { name, kind, isOptional } of fields) {
    const text = texts[name] ?? "";
    if (text || !isOptional) value[name] = parse(kind, text);
  }
  return fields.length === 1 && fields[0].name === "text" ? value.text : value;
}

function parse(kind, text) {
  if (kind === "words") return wordsOf(text);
  if (kind === "lines") return text.split("\n").filter((line) => line.trim());
  if (kind === "number" || kind === "word") return Number(text);
  return kind === "json" ? JSON.parse(text) : text;
}

export const wordsOf = (text) => text.split(/\s+/).filter(Boolean);

// The text that the offsets of an answer are of: words are joined by spaces.
export function textBehind(input) {
  if (typeof input === "string") return input;
  return input.tokens ? input.tokens.join(" ") : (input.context ?? input.text ?? "");
}

export const nameOfField = (name) => {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
};
