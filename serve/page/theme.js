// Sets the chosen colours before the first paint; "auto" leaves them to the system.
{
  const chosen = localStorage.getItem("palate.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
