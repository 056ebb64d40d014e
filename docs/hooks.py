"""Makes the repository's documents outside docs/ pages of the site, and the links between them and docs/ lead there."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

OUTSIDE = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "kernels/README.md",
    "benchmarks/results/*.md",
)
DOWNLOADS = ("examples/*.py", "examples/*.ipynb", "benchmarks/results/*.png")
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Add what stands outside docs/ under its path in the repository."""
    root = Path(config.config_file_path).parent
    for pattern in (*OUTSIDE, *DOWNLOADS):
        for path in sorted(root.glob(pattern)):
            files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn the links of a document in the repository into links between the site's pages."""
    uri = page.file.src_uri
    folder = posixpath.dirname(uri if page.file.generated_by else f"docs/{uri}")

    def in_site(link):
        target = posixpath.normpath(posixpath.join(folder, link[1])).removeprefix("docs/")
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{link[2] or ''})"

    return LINK.sub(in_site, markdown)
