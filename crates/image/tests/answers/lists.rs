//! Lists of tags and of repositories, from registries that have none or say something else.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_is_an_error_that_says_what_was_asked() {
    let tags = "/v2/team/app/tags/list";
    let search = "/v1/search?q=app&n=5";
    let html = || answer(200, "text/html", "<html>log in</html>");
    let broken = || denied("BROKEN", 400);
    for (given, words) in [
        (html as fn() -> Answer, ["answers 200", "no list of"]),
        (broken, ["answers 400", "broken"]),
    ] {
        let address = serve(move |_, asked| match asked.line.as_str() {
            line if line.ends_with("/v2/") => answer(200, "application/json", "{}"),
            _ => given(),
        });
        let home = home();
        let name = Reference::parse_normalized(&format!("{address}/team/app")).unwrap();
        let of_tags = home.store.tags(&name, None).await.unwrap_err();
        let term = format!("{address}/app");
        let of_search = home.store.search(&term, 5, None).await.unwrap_err();
        for (error, asked) in [(of_tags, tags), (of_search, search)] {
            let said = full(&error);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{said}");
            let url = format!("http://{address}{asked}");
            for words in [&url, words[0], words[1]] {
                assert!(said.contains(words), "{words:?} is not in: {said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_searches_is_named_and_not_taken_for_a_missing_image() {
    let address = serve(|_, asked| match asked.line.as_str() {
        line if line.ends_with("/v2/") => answer(200, "application/json", "{}"),
        _ => answer(404, "text/plain", "page not found"),
    });
    let home = home();
    let error = home.store.search(&format!("{address}/app"), 5, None).await;
    let said = full(&error.unwrap_err());
    let url = format!("http://{address}/v1/search?q=app&n=5 answers 404: page not found");
    assert!(
        said.contains(&format!("cannot ask {address}")) && said.contains(&url),
        "{said}"
    );
}
