import { h } from "../dom.js";
export function operatorView() { return { title: "operator", element: h("p", {}, "operator") }; }
