#!/usr/bin/env bash
# Copy the locked JavaScript to where it is served and tested from. Needs npm; the copies are part of the repository.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --ignore-scripts --no-audit --no-fund
page=../../serve/page/vendor reference=../../serve/reference/vendor tests=../../tests/e2e/vendor
mkdir -p "$page" "$reference" "$tests"
cp node_modules/marked/lib/marked.esm.js "$page/marked.esm.js"
cp node_modules/marked/LICENSE "$page/marked.LICENSE"
cp node_modules/swagger-ui-dist/{swagger-ui-bundle.js,swagger-ui.css} "$reference"
cp node_modules/swagger-ui-dist/LICENSE "$reference/swagger-ui.LICENSE"
cp node_modules/axe-core/axe.min.js "$tests/axe.min.js"
cp node_modules/axe-core/LICENSE "$tests/axe.LICENSE"
rm -rf node_modules
