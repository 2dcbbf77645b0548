/** The element with this id; the page is broken without it, so a missing one throws. */
export function byId<T extends Element = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return found as unknown as T;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const svg = 'http://www.w3.org/2000/svg';

export function icon(name: string): SVGSVGElement {
  const element = document.createElementNS(svg, 'svg');
  const use = document.createElementNS(svg, 'use');
  use.setAttribute('href', `#i-${name}`);
  element.append(use);
  return element;
}

export function setIcon(button: HTMLElement, name: string): void {
  button.querySelector('use')?.setAttribute('href', `#i-${name}`);
}

const letters: Record<string, string> = {
  '2': 'ABC', '3': 'DEF', '4': 'GHI', '5': 'JKL', '6': 'MNO', '7': 'PQRS', '8': 'TUV', '9': 'WXYZ', '0': '+',
};

/** Fills a group with the twelve telephone keys. */
export function keypad(group: HTMLElement, press: (key: string) => void): void {
  for (const key of '123456789*0#') {
    const button = make('button', { type: 'button' }, make('b', {}, key), make('small', {}, letters[key] ?? ''));
    button.setAttribute('aria-label', { '*': 'star', '#': 'hash' }[key] ?? key);
    button.addEventListener('click', () => press(key));
    group.append(button);
  }
}
