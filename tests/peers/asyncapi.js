// Validates an AsyncAPI document by the parser of the AsyncAPI initiative.
//
//     NODE_PATH=NODE_MODULES node asyncapi.js FILE
//
// The exit code is 1 with a line for each error.

const fs = require("fs");
const { Parser } = require("@asyncapi/parser");

(async () => {
    const { document, diagnostics } = await new Parser().parse(fs.readFileSync(process.argv[2], "utf8"));
    const errors = diagnostics.filter((diagnostic) => diagnostic.severity === 0);
    errors.forEach((error) => console.log(`${error.path.join(".")}: ${error.message}`));
    process.exit(document && errors.length === 0 ? 0 : 1);
})();
