// What a version's uploader says of it: its manifest and its card. The tensors stay where they are.
import { getJson, part } from "./api.js";

export const readVersion = (name, version) => getJson(`admin/v1/adapters/${part(name)}/versions/${version}`);
